"""Whether what a manifest names is there: maps, secrets, accounts, volumes, ports, pods, roles, metrics, files."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from infra import metrics
from tests.k8s.rendered import REPOSITORY, Pod, Resource, jobs, name, of_kind, pods

# Made by whoever sets the cluster up (docs/kubernetes.md), never by us; and their keys.
SECRETS = {
    "siamdiff-token": {"auth_token"},
    "siamdiff-store": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
}
OF_KUBERNETES = {"kube-root-ca.crt": {"ca.crt"}}  # ConfigMaps that are in every namespace
RAY_AGENT = 52365  # answers probes; not declared, as KubeRay does not
OUTSIDE = {53, 443}  # ports of name servers, of the store and the clouds' APIs
ENTRY_POINT = re.compile(
    r"python jobs/retry\.py \d+ (jobs/[a-z]+\.py) --config (/etc/siamdiff/)([^\s/]+)( --\S+ \S+)*$"
)


def problems(resources: list[Resource]) -> list[str]:
    """What is named and is not there."""
    checks = (
        _maps_and_secrets,
        _accounts,
        _volumes,
        _ports,
        _monitored,
        _selected,
        _roles,
        _files,
        _metrics,
        _queue,
    )
    return list(chain.from_iterable(check(resources) for check in checks))


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from _walk(part)


def _maps_and_secrets(resources: list[Resource]) -> Iterator[str]:
    maps = {
        r["metadata"]["name"]: set(r.get("data", {})) for r in of_kind(resources, "ConfigMap")
    } | OF_KUBERNETES
    for resource in resources:
        for part in _walk(resource):
            uses = [
                ("ConfigMap", maps, part[k])
                for k in ("configMapRef", "configMapKeyRef", "configMap")
                if k in part
            ]
            uses += [
                ("Secret", SECRETS, part[k]) for k in ("secretRef", "secretKeyRef", "secret") if k in part
            ]
            for kind, known, use in uses:
                called = use.get("name") or use.get("secretName")
                keys = {use["key"]} if "key" in use else {item["key"] for item in use.get("items", [])}
                if called not in known:
                    yield f"{name(resource)}: no {kind} {called}"
                elif missing := keys - known[called]:
                    yield f"{name(resource)}: {kind} {called} has no {sorted(missing)}"
    for where, spec in jobs(resources):
        token = spec["rayClusterSpec"].get("authOptions", {}).get("secretName")
        if "auth_token" not in SECRETS.get(token, ()):
            yield f"{where}: no Secret {token} with an auth_token"


def _accounts(resources: list[Resource]) -> Iterator[str]:
    accounts = {r["metadata"]["name"] for r in of_kind(resources, "ServiceAccount")}
    for pod in pods(resources):
        account = pod.spec.get("serviceAccountName")
        if account not in accounts and (account or pod.start is not None):
            yield f"{pod.where}: no ServiceAccount {account}"


def _volumes(resources: list[Resource]) -> Iterator[str]:
    added = {}  # KubeRay's autoscaler is a container of the head
    for where, spec in jobs(resources):
        added[f"{where}: head"] = spec["rayClusterSpec"].get("autoscalerOptions", {}).get("volumeMounts", [])
    for pod in pods(resources):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        mounts = [m for container in pod.containers for m in container.get("volumeMounts", [])]
        mounted = {mount["name"] for mount in mounts + added.get(pod.where, [])}
        if volumes != mounted:
            yield f"{pod.where}: volumes {sorted(volumes)}, mounted {sorted(mounted)}"


def _named_ports(pod: Pod) -> dict[str, int]:
    return {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", [])}


def _ports(resources: list[Resource]) -> Iterator[str]:
    every = list(pods(resources))
    for pod in every:
        ports = _named_ports(pod)
        for container in pod.containers:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port", RAY_AGENT)
                if port not in {*ports, *ports.values(), RAY_AGENT}:
                    yield f"{pod.where}: {probe} asks port {port}, which nothing listens on"
        if pod.start is not None and int(pod.start.get("metrics-export-port", 0)) != ports.get("metrics"):
            yield f"{pod.where}: metrics are exported at another port than the one called metrics"
    for service in of_kind(resources, "Service"):
        behind = [pod for pod in every if _matches(service["spec"]["selector"], pod)]
        for port in service["spec"]["ports"]:
            if any(port["targetPort"] not in _named_ports(pod) for pod in behind):
                yield f"{name(service)}: no port {port['targetPort']} behind it"
    served = {
        f"http://{s['metadata']['name']}:{p['port']}"
        for s in of_kind(resources, "Service")
        for p in s["spec"]["ports"]
    }
    for map_ in of_kind(resources, "ConfigMap"):
        endpoint = map_.get("data", {}).get("AWS_ENDPOINT_URL")
        if endpoint and endpoint not in served:
            yield f"{name(map_)}: no Service at {endpoint}"


def _matches(labels: dict[str, str], pod: Pod) -> bool:
    return labels.items() <= pod.labels.items()


def _monitored(resources: list[Resource]) -> Iterator[str]:
    for monitor in of_kind(resources, "PodMonitor"):
        chosen = [p for p in pods(resources) if _matches(monitor["spec"]["selector"]["matchLabels"], p)]
        known = set().union(*(_named_ports(pod) for pod in chosen))
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint.get("port") not in known:
                yield f"{name(monitor)}: no pod with a port {endpoint.get('port')}"


def _selected(resources: list[Resource]) -> Iterator[str]:
    """Selectors of services and policies choose a pod of ours, and the ports are those that it listens on."""
    every = list(pods(resources))
    for service in of_kind(resources, "Service"):
        if not any(_matches(service["spec"]["selector"], pod) for pod in every):
            yield f"{name(service)}: selects nothing"
    for policy in of_kind(resources, "NetworkPolicy"):
        spec = policy["spec"]
        own = _chosen(spec["podSelector"], every)
        if not own:
            yield f"{name(policy)}: is for no pod"
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                peers = [
                    peer
                    for peer in rule.get(side, [])
                    if "namespaceSelector" not in peer and "ipBlock" not in peer
                ]
                reached = [_chosen(peer.get("podSelector", {}), every) for peer in peers]
                if not all(reached):
                    yield f"{name(policy)}: {direction} from or to no pod"
                receivers = own if direction == "ingress" else list(chain.from_iterable(reached))
                listening = (
                    set(chain.from_iterable(_named_ports(pod).values() for pod in receivers)) or OUTSIDE
                )
                for port in rule.get("ports", []):
                    if port["port"] not in listening:
                        yield f"{name(policy)}: nothing listens on port {port['port']}"


def _chosen(selector: dict[str, Any], every: list[Pod]) -> list[Pod]:
    return [pod for pod in every if _matches(selector.get("matchLabels", {}), pod)]


def _roles(resources: list[Resource]) -> Iterator[str]:
    roles = {(r["kind"], r["metadata"]["name"]) for r in of_kind(resources, "Role")}
    for binding in of_kind(resources, "RoleBinding"):
        if (binding["roleRef"]["kind"], binding["roleRef"]["name"]) not in roles:
            yield f"{name(binding)}: no {binding['roleRef']['kind']} {binding['roleRef']['name']}"
    kinds = {f"{resource['kind'].lower()}s" for resource in resources}
    for role in of_kind(resources, "Role"):
        for rule in role["rules"]:
            for called in rule.get("resourceNames", []):
                if not any(
                    r["metadata"]["name"] == called and f"{r['kind'].lower()}s" in rule["resources"]
                    for r in resources
                ):
                    yield f"{name(role)}: nothing is called {called}"
            ours = set(rule["resources"]) - {
                "rayclusters",
                "pods",
                "pods/log",
                "events",
            }  # which KubeRay makes
            if ours - kinds:
                yield f"{name(role)}: there are no {sorted(ours - kinds)}"


def _files(resources: list[Resource]) -> Iterator[str]:
    """Entry points exist in the checkout, and their configuration where it is mounted."""
    maps = {r["metadata"]["name"]: set(r.get("data", {})) for r in of_kind(resources, "ConfigMap")}
    for where, spec in jobs(resources):
        match = ENTRY_POINT.match(spec.get("entrypoint", ""))
        if not match:
            yield f"{where}: entry point {spec.get('entrypoint')!r} is not jobs/retry.py N jobs/STAGE.py --config FILE"
            continue
        if not (REPOSITORY / match[1]).is_file():
            yield f"{where}: no {match[1]}"
        head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        volumes = {volume["name"]: volume.get("configMap", {}).get("name") for volume in head["volumes"]}
        mounts = {m["mountPath"].rstrip("/") + "/": m["name"] for m in head["containers"][0]["volumeMounts"]}
        if match[3] not in maps.get(volumes.get(mounts.get(match[2], ""), ""), ()):
            yield f"{where}: no {match[2]}{match[3]} in the head's pod"


def known_metrics() -> set[str]:
    """Every series of ours as Prometheus has it."""
    return {name for metric in metrics.table() for name in metric.series}


def _metrics(resources: list[Resource]) -> Iterator[str]:
    known = known_metrics()
    texts = [(name(r), str(r["spec"])) for r in of_kind(resources, "PrometheusRule")]
    texts += [
        (name(r), str(r["data"]))
        for r in of_kind(resources, "ConfigMap")
        if r["metadata"]["name"].startswith("dashboard-")
    ]
    for where, text in texts:
        for metric in sorted(set(re.findall(r"\b(?:ray_)?siamdiff_[a-z0-9_]+", text))):
            if metric not in known and not re.search(rf"record\W+{metric}\b", text):
                yield f"{where}: no metric {metric}"


def _queue(resources: list[Resource]) -> Iterator[str]:
    queues = {r["metadata"]["name"] for r in of_kind(resources, "LocalQueue")}
    for job in of_kind(resources, "RayJob"):
        queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        if (queue in queues) != bool(queues):
            yield f"{name(job)}: no LocalQueue {queue}"
