"""Broken copies of the manifests: each is one mistake that somebody makes one day."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.k8s.rendered import Resource, name

Change = Callable[[list[Resource]], None]


class Mutation(NamedTuple):
    """A mistake in an overlay."""

    what: str
    overlay: str
    change: Change


def _at(resources: list[Resource], where: str, path: str) -> tuple[Any, Any]:
    """The container and the key that a dotted path leads to."""
    place: Any = next(resource for resource in resources if name(resource) == where)
    *steps, last = [int(step) if step.isdigit() else step.replace("~", ".") for step in path.split(".")]
    for step in steps:
        place = place[step]
    return place, last


def put(where: str, path: str, value: Any) -> Change:
    def change(resources: list[Resource]) -> None:
        place, last = _at(resources, where, path)
        place[last] = value

    return change


def drop(where: str, path: str) -> Change:
    def change(resources: list[Resource]) -> None:
        place, last = _at(resources, where, path)
        del place[last]

    return change


def rename(where: str, path: str, to: str) -> Change:
    def change(resources: list[Resource]) -> None:
        place, last = _at(resources, where, path)
        place[to] = place.pop(last)

    return change


def append(where: str, path: str, value: Any) -> Change:
    def change(resources: list[Resource]) -> None:
        place, last = _at(resources, where, path)
        place[last].append(value)

    return change


def without(where: str) -> Change:
    def change(resources: list[Resource]) -> None:
        resources[:] = [resource for resource in resources if name(resource) != where]

    return change


def plus(resource: Resource) -> Change:
    return lambda resources: resources.append(resource)


def rule(expression: str) -> Change:
    """One more alert."""
    return append(
        "PrometheusRule siamdiff",
        "spec.groups",
        {"name": "more", "rules": [{"alert": "A", "expr": expression}]},
    )


TRAIN, NIGHTLY, CLUSTER = "RayJob siamdiff-train", "RayCronJob siamdiff-nightly", "spec.rayClusterSpec"
HEAD, WORKER = f"{CLUSTER}.headGroupSpec.template.spec", f"{CLUSTER}.workerGroupSpecs.0.template.spec"
HEAD_BOX, WORKER_BOX = f"{HEAD}.containers.0", f"{WORKER}.containers.0"
SUBMITTER = "spec.submitterPodTemplate.spec"
STORE = "spec.template.spec"

# typos and types, in the kinds of Kubernetes, KubeRay, Prometheus' operator and Kueue
FIELDS = [
    Mutation("field of a RayJob misspelt", "eks", rename(TRAIN, "spec.entrypoint", "entryPoint")),
    Mutation("field of a Ray cluster misspelt", "eks", rename(TRAIN, f"{CLUSTER}.authOptions", "authOption")),
    Mutation(
        "field of a worker group misspelt",
        "eks",
        rename(TRAIN, f"{CLUSTER}.workerGroupSpecs.0.groupName", "name"),
    ),
    Mutation("no head", "eks", drop(TRAIN, f"{CLUSTER}.headGroupSpec")),
    Mutation(
        "field of a pod misspelt", "eks", rename(TRAIN, f"{HEAD}.serviceAccountName", "serviceAcountName")
    ),
    Mutation(
        "field of a container misspelt", "eks", rename(TRAIN, f"{WORKER_BOX}.volumeMounts", "volumesMounts")
    ),
    Mutation(
        "field of a probe misspelt", "kind", rename(TRAIN, f"{HEAD_BOX}.livenessProbe.httpGet", "httpget")
    ),
    Mutation("number where a string is wanted", "eks", put(TRAIN, f"{HEAD_BOX}.env.1.value", 0)),
    Mutation(
        "string where a number is wanted", "eks", put(TRAIN, f"{HEAD}.terminationGracePeriodSeconds", "120")
    ),
    Mutation(
        "start parameter is a number",
        "eks",
        put(TRAIN, f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", 0),
    ),
    Mutation("word where a list is wanted", "eks", put(TRAIN, f"{WORKER_BOX}.command", "ray start")),
    Mutation("no such mode of authentication", "eks", put(TRAIN, f"{CLUSTER}.authOptions.mode", "tokens")),
    Mutation("no such autoscaler", "eks", put(TRAIN, f"{CLUSTER}.autoscalerOptions.version", "v3")),
    Mutation("no such kind", "eks", put(TRAIN, "kind", "RayJobs")),
    Mutation("no such kind of Kubernetes", "eks", put("NetworkPolicy dns", "kind", "NetworkPolicies")),
    Mutation("schedule misspelt", "eks", rename(NIGHTLY, "spec.schedule", "shedule")),
    Mutation(
        "policy's field misspelt", "eks", rename("NetworkPolicy dns", "spec.podSelector", "podselector")
    ),
    Mutation(
        "policy's port is a list", "eks", put("NetworkPolicy https", "spec.egress.0.ports.0.port", [443])
    ),
    Mutation("role's verbs misspelt", "eks", rename("Role siamdiff-runner", "rules.0.verbs", "verb")),
    Mutation(
        "account's field misspelt",
        "eks",
        rename("ServiceAccount siamdiff", "automountServiceAccountToken", "automount"),
    ),
    Mutation(
        "monitor's field misspelt",
        "eks",
        rename("PodMonitor siamdiff-ray", "spec.podMetricsEndpoints", "endpoints"),
    ),
    Mutation(
        "alert's field misspelt",
        "eks",
        append("PrometheusRule siamdiff", "spec.groups", {"name": "g", "rule": []}),
    ),
    Mutation(
        "queue's field misspelt", "eks-kueue", rename("LocalQueue default", "spec.clusterQueue", "queue")
    ),
    Mutation("deployment's field misspelt", "kind", rename("Deployment store", "spec.replicas", "replica")),
    Mutation("service's port without number", "kind", drop("Service store", "spec.ports.0.port")),
]

# names of what is not there
REFERENCES = [
    Mutation(
        "no such ConfigMap in a volume", "eks", put(TRAIN, f"{HEAD}.volumes.0.configMap.name", "experiment")
    ),
    Mutation(
        "no such ConfigMap in the environment",
        "eks",
        put(TRAIN, f"{WORKER_BOX}.envFrom.0.configMapRef.name", "aws"),
    ),
    Mutation("ConfigMap taken away", "eks", without("ConfigMap siamdiff-experiment")),
    Mutation(
        "no such key in the ConfigMap",
        "kind",
        rename("ConfigMap siamdiff-experiment", "data.experiment~yaml", "demo.yaml"),
    ),
    Mutation(
        "no such Secret for the token", "eks", put(TRAIN, f"{CLUSTER}.authOptions.secretName", "ray-token")
    ),
    Mutation(
        "no such Secret for the store", "eks", put(TRAIN, f"{WORKER_BOX}.envFrom.1.secretRef.name", "aws")
    ),
    Mutation(
        "no such key in the Secret",
        "kind",
        put("Deployment store", f"{STORE}.containers.0.env.1.valueFrom.secretKeyRef.key", "KEY"),
    ),
    Mutation("no such ServiceAccount", "eks", put(TRAIN, f"{WORKER}.serviceAccountName", "default-sa")),
    Mutation("ServiceAccount taken away", "eks", without("ServiceAccount siamdiff-head")),
    Mutation("no such volume", "eks", put(TRAIN, f"{HEAD_BOX}.volumeMounts.1.name", "cache")),
    Mutation("volume that nothing mounts", "eks", drop(TRAIN, f"{WORKER_BOX}.volumeMounts.2")),
    Mutation(
        "probe of a port that is not there",
        "eks",
        put(TRAIN, f"{WORKER_BOX}.livenessProbe.httpGet.port", 52366),
    ),
    Mutation(
        "probe of a name that is not there",
        "kind",
        put("Deployment store", f"{STORE}.containers.0.readinessProbe.httpGet.port", "http"),
    ),
    Mutation(
        "metrics at another port",
        "eks",
        put(TRAIN, f"{CLUSTER}.workerGroupSpecs.1.rayStartParams.metrics-export-port", "8080"),
    ),
    Mutation(
        "monitored port is not there",
        "eks",
        put("PodMonitor siamdiff-ray", "spec.podMetricsEndpoints.1.port", "autoscaler"),
    ),
    Mutation(
        "monitor selects nothing",
        "eks",
        put("PodMonitor siamdiff-ray", "spec.selector.matchLabels", {"ray.io/is-ray-node": "true"}),
    ),
    Mutation(
        "policy for no pod",
        "eks",
        put("NetworkPolicy ray", "spec.podSelector.matchLabels", {"ray.io/node": "yes"}),
    ),
    Mutation(
        "policy from no pod",
        "eks",
        put("NetworkPolicy ray", "spec.ingress.0.from.0.podSelector.matchLabels", {"app": "ray"}),
    ),
    Mutation(
        "policy for another port", "eks", put("NetworkPolicy dashboard", "spec.ingress.0.ports.0.port", 8256)
    ),
    Mutation(
        "policy for other metrics", "eks", put("NetworkPolicy metrics", "spec.ingress.0.ports.0.port", 8080)
    ),
    Mutation(
        "service selects nothing",
        "kind",
        put("Service store", "spec.selector", {"app.kubernetes.io/name": "stores"}),
    ),
    Mutation(
        "no such port behind the service", "kind", put("Service store", "spec.ports.0.targetPort", "http")
    ),
    Mutation(
        "no such service",
        "kind",
        put("ConfigMap siamdiff-environment", "data.AWS_ENDPOINT_URL", "http://s3:8333"),
    ),
    Mutation("no such role", "eks", put("RoleBinding siamdiff-runner", "roleRef.name", "runner")),
    Mutation(
        "right on a map that is not there",
        "eks",
        put("Role siamdiff-runner", "rules.3.resourceNames", ["experiment"]),
    ),
    Mutation(
        "right on a kind that is not there",
        "eks",
        put("Role siamdiff-runner", "rules.0.resources", ["rayjob"]),
    ),
    Mutation("no such queue", "eks-kueue", put(TRAIN, "metadata.labels.kueue~x-k8s~io/queue-name", "main")),
    Mutation(
        "no such job",
        "eks",
        put(
            TRAIN,
            "spec.entrypoint",
            "python jobs/retry.py 3 jobs/trian.py --config /etc/siamdiff/experiment.yaml",
        ),
    ),
    Mutation(
        "no such configuration",
        "eks",
        put(
            TRAIN, "spec.entrypoint", "python jobs/retry.py 3 jobs/train.py --config /etc/siamdiff/train.yaml"
        ),
    ),
    Mutation("unknown metric in an alert", "eks", rule("ray_siamdiff_train_setp > 0")),
    Mutation("metric without Ray's prefix in an alert", "eks", rule("siamdiff_train_step > 0")),
    Mutation(
        "unknown metric in a dashboard",
        "eks",
        plus(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": "dashboard-x",
                    "namespace": "siamdiff",
                    "labels": {"grafana_dashboard": "1"},
                },
                "data": {"x.json": '{"expr": "rate(ray_siamdiff_images[5m])"}'},
            }
        ),
    ),
]

# what would work, and harm
RULES = [
    Mutation("mistakes are tried again", "eks", put(TRAIN, "spec.backoffLimit", 3)),
    Mutation(
        "job without retry.py",
        "eks",
        put(TRAIN, "spec.entrypoint", "python jobs/train.py --config /etc/siamdiff/experiment.yaml"),
    ),
    Mutation("cluster stays", "eks", put(TRAIN, "spec.shutdownAfterJobFinishes", False)),
    Mutation("no token", "eks", put(TRAIN, f"{CLUSTER}.authOptions.mode", "disabled")),
    Mutation("another Ray", "eks", put(TRAIN, f"{CLUSTER}.rayVersion", "2.59.0")),
    Mutation("autoscaling under Kueue", "eks-kueue", put(TRAIN, f"{CLUSTER}.enableInTreeAutoscaling", True)),
    Mutation("not in the queue", "eks-kueue", drop(TRAIN, "metadata.labels.kueue~x-k8s~io/queue-name")),
    Mutation("fewest above most", "eks", put(TRAIN, f"{CLUSTER}.workerGroupSpecs.0.minReplicas", 9)),
    Mutation("two groups of one name", "eks", put(TRAIN, f"{CLUSTER}.workerGroupSpecs.1.groupName", "gpu")),
    Mutation(
        "no such start parameter", "eks", put(TRAIN, f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpu", "0")
    ),
    Mutation(
        "the nightly job differs",
        "eks",
        put(
            NIGHTLY,
            "spec.jobTemplate.entrypoint",
            "python jobs/retry.py 3 jobs/evaluate.py --config /etc/siamdiff/experiment.yaml",
        ),
    ),
    Mutation("the alert goes by another schedule", "eks", put(NIGHTLY, "spec.schedule", "0 1 * * 6")),
    Mutation("no schedule", "eks", put(NIGHTLY, "spec.schedule", "1 a.m.")),
    Mutation("no such time zone", "eks", put(NIGHTLY, "spec.timeZone", "Europe/Bern")),
    Mutation("runs as root", "eks", put(TRAIN, f"{WORKER}.securityContext.runAsUser", 0)),
    Mutation(
        "privileged",
        "kind",
        put("Deployment store", f"{STORE}.containers.0.securityContext.privileged", True),
    ),
    Mutation("token of the API server", "eks", put(TRAIN, f"{HEAD}.automountServiceAccountToken", True)),
    Mutation("the machine's network", "eks", put(TRAIN, f"{WORKER}.hostNetwork", True)),
    Mutation("limits above requests", "eks", put(TRAIN, f"{WORKER_BOX}.resources.limits.memory", "64Gi")),
    Mutation("no limits", "eks", drop(TRAIN, f"{SUBMITTER}.containers.0.resources.limits")),
    Mutation("no probe", "kind", drop("Deployment store", f"{STORE}.containers.0.livenessProbe")),
    Mutation("another tag", "eks", put(TRAIN, f"{WORKER_BOX}.image", "siamdiff:0.2.0-cuda")),
    Mutation(
        "latest", "kind", put("Deployment store", f"{STORE}.containers.0.image", "chrislusf/seaweedfs:latest")
    ),
    Mutation("no preStop", "eks", drop(TRAIN, f"{WORKER_BOX}.lifecycle")),
    Mutation("no time for a checkpoint", "eks", put(TRAIN, f"{WORKER}.terminationGracePeriodSeconds", 30)),
    Mutation(
        "variable that Ray does not know",
        "eks",
        put(TRAIN, f"{HEAD_BOX}.env.2.name", "RAY_JOB_STOP_WAIT_TIME"),
    ),
    Mutation(
        "key in the manifest",
        "eks",
        append(TRAIN, f"{HEAD_BOX}.env", {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
    ),
    Mutation(
        "key in a ConfigMap", "eks", put("ConfigMap siamdiff-environment", "data.AWS_SECRET_ACCESS_KEY", "x")
    ),
    Mutation(
        "Secret in the manifests",
        "eks",
        plus(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "siamdiff-store", "namespace": "siamdiff"},
            }
        ),
    ),
    Mutation("nothing denied", "eks", without("NetworkPolicy deny")),
    Mutation("dashboard open to all", "eks", drop("NetworkPolicy dashboard", "spec.ingress.0.from")),
    Mutation(
        "dashboard open to addresses",
        "eks",
        append("NetworkPolicy dashboard", "spec.ingress.0.from", {"ipBlock": {"cidr": "10.0.0.0/8"}}),
    ),
    Mutation(
        "a namespace may reach every port", "eks", drop("NetworkPolicy metrics", "spec.ingress.0.ports")
    ),
    Mutation(
        "metadata service reachable", "eks", drop("NetworkPolicy https", "spec.egress.0.to.0.ipBlock.except")
    ),
    Mutation("public dashboard", "eks", put(TRAIN, f"{CLUSTER}.headGroupSpec.serviceType", "LoadBalancer")),
    Mutation("public store", "kind", put("Service store", "spec.type", "NodePort")),
    Mutation("may read secrets", "eks", append("Role siamdiff-runner", "rules.2.resources", "secrets")),
    Mutation(
        "no role in the cloud",
        "eks",
        put("ServiceAccount siamdiff", "metadata.annotations", {"eks.amazonaws.com/role-arn": "siamdiff"}),
    ),
    Mutation(
        "any pod may run",
        "eks",
        drop("Namespace siamdiff", "metadata.labels.pod-security~kubernetes~io/enforce"),
    ),
    Mutation("another namespace", "eks", put(TRAIN, "metadata.namespace", "default")),
    Mutation("rules without release", "eks", drop("PrometheusRule siamdiff", "metadata.labels")),
    Mutation("a stage is missing", "eks", without("RayJob siamdiff-segment")),
    Mutation(
        "two of a name",
        "eks",
        plus(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "siamdiff", "namespace": "siamdiff"},
                "automountServiceAccountToken": False,
            }
        ),
    ),
]

EVERY = [*FIELDS, *REFERENCES, *RULES]
