"""What else our manifests have to keep: KubeRay's and Kueue's own conditions, and the project's."""

import re
import tomllib
import zoneinfo
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from tests.k8s.rendered import NAMESPACE, REPOSITORY, Pod, Resource, jobs, name, of_kind, pods

CRON = re.compile(r"[\d*/,-]+( [\d*/,-]+){4}$")
DAILY = re.compile(r"\d+ \d+ \* \* \*$")
HOURS = re.compile(r"--cluster\.schedule_hours (\d+)\b")
SECONDS = re.compile(r"(?:sleep|timeout) (\d{2,})")
QUEUE = "kueue.x-k8s.io/queue-name"
SECRET_NAME = re.compile(r"KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)


def problems(resources: list[Resource]) -> list[str]:
    """Which of the rules do not hold."""
    checks = (
        _names,
        _jobs,
        _clusters,
        _schedule,
        _pods,
        _images,
        _ending,
        _environment,
        _secrets,
        _network,
        _access,
        _labels,
    )
    return list(chain.from_iterable(check(resources) for check in checks))


def _names(resources: list[Resource]) -> Iterator[str]:
    for called, count in Counter(map(name, resources)).items():
        if count > 1:
            yield f"{called} is there {count} times"
    for resource in resources:
        if resource["kind"] != "Namespace" and resource["metadata"].get("namespace") != NAMESPACE:
            yield f"{name(resource)} is not in {NAMESPACE}"
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", resource["metadata"]["name"]):
            yield f"{name(resource)}: no name that KubeRay takes"


def _jobs(resources: list[Resource]) -> Iterator[str]:
    for where, spec in jobs(resources):
        if spec.get("backoffLimit") != 0:
            yield f"{where}: a user's mistake would be tried again in a new cluster"
        if not spec.get("shutdownAfterJobFinishes") or not spec.get("ttlSecondsAfterFinished", 0) > 0:
            yield f"{where}: its cluster stays"
        if spec.get("suspend") is not None:
            yield f"{where}: suspend is Kueue's"
        if spec.get("submissionMode") != "K8sJobMode":
            yield f"{where}: the network policies are for K8sJobMode"


def _clusters(resources: list[Resource]) -> Iterator[str]:
    is_queued = bool(of_kind(resources, "LocalQueue"))
    for where, spec in jobs(resources):
        cluster = spec["rayClusterSpec"]
        groups = cluster["workerGroupSpecs"]
        scales = cluster.get("enableInTreeAutoscaling", False)
        if cluster.get("authOptions", {}).get("mode") != "token":
            yield f"{where}: no token is asked for"
        if cluster.get("rayVersion") != _pinned("ray"):
            yield f"{where}: Ray {cluster.get('rayVersion')} is not the one of constraints.txt"
        if len({group["groupName"] for group in groups}) < len(groups):
            yield f"{where}: two worker groups have one name"
        if scales and is_queued:
            yield f"{where}: Kueue admits no autoscaling"
        if scales != ("autoscalerOptions" in cluster):
            yield f"{where}: autoscaler and its options go together"
        if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield f"{where}: work would run beside the job"
        for group in groups:
            least, now, most = (group.get(key, -1) for key in ("minReplicas", "replicas", "maxReplicas"))
            if not 0 <= least <= now <= most or most == 0 or (not scales and least != most):
                yield f"{where}: {group['groupName']} has {least}, {now}, {most} workers"
            if group.get("priority") and cluster.get("autoscalerOptions", {}).get("version") != "v2":
                yield f"{where}: {group['groupName']} has a priority without autoscaler v2"
        parts = [cluster["headGroupSpec"], *groups]
        for part in parts:
            if unknown := part["rayStartParams"].keys() - _ray_start_options():
                yield f"{where}: `ray start` has no {sorted(unknown)}"
            if part["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield f"{where}: autoscaler v2 wants restartPolicy Never"


@cache
def _ray_start_options() -> frozenset[str]:
    from ray.scripts.scripts import start

    return frozenset(option.removeprefix("--") for parameter in start.params for option in parameter.opts)


def _pinned(package: str) -> str:
    found = re.search(
        rf"^{package}==(.+)$", (REPOSITORY / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found
    return found[1]


def _schedule(resources: list[Resource]) -> Iterator[str]:
    generate = [
        job["spec"] for job in of_kind(resources, "RayJob") if job["metadata"]["name"] == "siamdiff-generate"
    ]
    for cron in of_kind(resources, "RayCronJob"):
        if [cron["spec"].get("jobTemplate")] != generate:
            yield f"{name(cron)}: its job is not siamdiff-generate"
        if not CRON.match(cron["spec"]["schedule"]):
            yield f"{name(cron)}: {cron['spec']['schedule']!r} is no schedule"
        hours = HOURS.findall(str(cron["spec"].get("jobTemplate")))
        if not hours or (hours == ["24"]) != bool(DAILY.match(cron["spec"]["schedule"])):
            yield f"{name(cron)}: the alert goes by {hours or 'no'} hours, not by those of its schedule"
        if cron["spec"].get("timeZone") not in _time_zones():
            yield f"{name(cron)}: no time zone {cron['spec'].get('timeZone')}"


@cache
def _time_zones() -> set[str]:
    return zoneinfo.available_timezones()


def _pods(resources: list[Resource]) -> Iterator[str]:
    """As the namespace's level `restricted` wants them, with fixed resources, and looked after."""
    for pod in pods(resources):
        security = pod.spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or security.get("runAsUser") != 1000:
            yield f"{pod.where}: does not run as user 1000"
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.where}: no seccomp profile"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.where}: has a token of the API server"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{pod.where}: {key}"
        if any("hostPath" in volume for volume in pod.spec.get("volumes", [])):
            yield f"{pod.where}: reads the machine's disk"
        is_server = "submitter" not in pod.where
        for container in pod.containers:
            yield from (f"{pod.where}: {problem}" for problem in _container(container))
            if is_server and not {"readinessProbe", "livenessProbe"} <= container.keys():
                yield f"{pod.where}: {container['name']} has no probes"
    for where, spec in jobs(resources):
        options = spec["rayClusterSpec"].get("autoscalerOptions")
        if options:
            yield from (f"{where}: autoscaler: {problem}" for problem in _container(options))


def _container(container: dict[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "may gain privileges"
    if not security.get("readOnlyRootFilesystem"):
        yield "writes to its image"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or "add" in security.get("capabilities", {}):
        yield "has capabilities"
    limits, requests = (container.get("resources", {}).get(key, {}) for key in ("limits", "requests"))
    if limits != requests or not {"cpu", "memory", "ephemeral-storage"} <= limits.keys():
        yield f"limits {limits}, requests {requests}"


def _images(resources: list[Resource]) -> Iterator[str]:
    ours = {
        container["image"]
        for pod in pods(resources)
        if pod.start is not None or "submitter" in pod.where
        for container in pod.containers
    }
    if len(ours) != 1 or not re.search(rf"\bsiamdiff:{re.escape(_version())}-(cpu|cuda)$", ours.copy().pop()):
        yield f"images {sorted(ours)}"
    for image in {container["image"] for pod in pods(resources) for container in pod.containers}:
        if not re.search(r":\d[\w.-]*$", image):
            yield f"{image} has no fixed tag"


def _version() -> str:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def _ending(resources: list[Resource]) -> Iterator[str]:
    """A stopped job has its time to write a checkpoint: its own < what is waited for < what Kubernetes gives."""
    for pod in pods(resources):
        if pod.start is None:
            continue
        (container,) = pod.containers
        environment = {e["name"]: e.get("value", "") for e in container["env"]}
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [""])[-1]
        waited = [int(seconds) for seconds in SECONDS.findall(hook)]
        own = (
            "RAY_JOB_STOP_WAIT_TIME_S"
            if pod.where.endswith("head")
            else "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
        )
        times = [60, int(environment.get(own, 0)), *waited, pod.spec.get("terminationGracePeriodSeconds", 30)]
        if len(waited) != 1 or times != sorted(set(times)):  # 60: train.grace_seconds
            yield f"{pod.where}: no time for a checkpoint in {times}"


def _environment(resources: list[Resource]) -> Iterator[str]:
    for pod in pods(resources):
        for container in pod.containers:
            names = [variable["name"] for variable in container.get("env", [])]
            if len(set(names)) < len(names):
                yield f"{pod.where}: a variable is set twice"
            for variable in names:
                if variable.startswith("RAY_") and not _ray_knows(variable):
                    yield f"{pod.where}: Ray does not know {variable}"


@cache
def _ray_knows(variable: str) -> bool:
    import ray

    files = (
        "_private/ray_constants.py",
        "_common/usage/usage_constants.py",
        "dashboard/modules/job/job_supervisor.py",
    )
    return any(variable in Path(ray.__path__[0], file).read_text(encoding="utf-8") for file in files)


def _secrets(resources: list[Resource]) -> Iterator[str]:
    """By reference alone."""
    if of_kind(resources, "Secret"):
        yield "a Secret is rendered"
    for pod in pods(resources):
        for container in pod.containers:
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]) and "value" in variable:
                    yield f"{pod.where}: {variable['name']} stands in the manifest"
    for map_ in of_kind(resources, "ConfigMap"):
        if any(SECRET_NAME.search(key) for key in map_.get("data", {})):
            yield f"{name(map_)}: a secret in a ConfigMap"
    for where, spec in jobs(resources):
        if "runtimeEnvYAML" in spec:
            yield f"{where}: a runtime environment is logged and shown in the dashboard"


def _network(resources: list[Resource]) -> Iterator[str]:
    policies = of_kind(resources, "NetworkPolicy")
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if everything not in [policy["spec"] for policy in policies]:
        yield "no policy denies what the others do not allow"
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            peers = rule.get("from", [])
            if not peers or any("ipBlock" in peer or "podSelector" not in peer for peer in peers):
                yield f"{name(policy)}: lets anyone in"
            if any("namespaceSelector" in peer for peer in peers) and "ports" not in rule:
                yield f"{name(policy)}: opens every port to another namespace"
        for rule in policy["spec"].get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
            if not rule.get("to") or any("169.254.0.0/16" not in block.get("except", []) for block in blocks):
                yield f"{name(policy)}: lets out to the machine's metadata"
        for direction, kind in (("ingress", "Ingress"), ("egress", "Egress")):
            if direction in policy["spec"] and kind not in policy["spec"]["policyTypes"]:
                yield f"{name(policy)}: its {direction} counts for nothing"
    if of_kind(resources, "Ingress") or any(
        service["spec"].get("type", "ClusterIP") != "ClusterIP" for service in of_kind(resources, "Service")
    ):
        yield "a service is public"
    for where, spec in jobs(resources):
        if spec["rayClusterSpec"]["headGroupSpec"].get("serviceType") != "ClusterIP":
            yield f"{where}: the dashboard is public"


def _access(resources: list[Resource]) -> Iterator[str]:
    if of_kind(resources, "ClusterRole", "ClusterRoleBinding"):
        yield "rights beyond the namespace"
    for role in of_kind(resources, "Role"):
        for rule in role["rules"]:
            words = {*rule["resources"], *rule["verbs"]}
            if words & {
                "*",
                "secrets",
                "pods/exec",
                "pods/attach",
                "serviceaccounts/token",
                "escalate",
                "bind",
                "impersonate",
            }:
                yield f"{name(role)}: more rights than are needed"
    accounts = of_kind(resources, "ServiceAccount")
    roles = {a["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn") for a in accounts}
    if len(roles) > 1 or any(
        role and not re.fullmatch(r"arn:aws:iam::\d{12}:role/[\w+=,.@-]+", role) for role in roles
    ):
        yield f"cloud roles {sorted(map(str, roles))}"
    for account in accounts:
        if account.get("automountServiceAccountToken") is not False:
            yield f"{name(account)}: pods get a token of the API server"
    for namespace in of_kind(resources, "Namespace"):
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "the namespace takes any pod"


def _labels(resources: list[Resource]) -> Iterator[str]:
    for resource in of_kind(resources, "PodMonitor", "PrometheusRule"):
        if not resource["metadata"].get("labels", {}).get("release"):
            yield f"{name(resource)}: Prometheus will not find it"
    for resource in of_kind(resources, "ConfigMap"):
        if resource["metadata"]["name"].startswith("dashboard-") and not resource["metadata"].get("labels"):
            yield f"{name(resource)}: Grafana will not find it"
    stages = {
        job["metadata"].get("labels", {}).get("siamdiff/stage")
        for job in of_kind(resources, "RayJob", "RayCronJob")
    }
    wanted = {"ingest", "train", "generate", "evaluate", "segment", "experiment", "nightly"}
    if stages != wanted:
        yield f"stages {sorted(map(str, stages))}"
    for where, spec in jobs(resources):
        for pod in pods([{"kind": "RayJob", "metadata": {"name": where}, "spec": spec}]):
            if pod.start is not None and pod.labels.get("app.kubernetes.io/name") != "siamdiff":
                yield f"{pod.where}: its label is not ours"


def gpus(pod: Pod) -> int:
    """GPUs that a pod asks for."""
    return sum(int(container["resources"]["limits"].get("nvidia.com/gpu", 0)) for container in pod.containers)
