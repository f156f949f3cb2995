"""The dynamic client, server-side apply, jobs, leader election and custom objects."""

import os
import sys
import threading
import time
import uuid

from kubernetes import client, config, dynamic
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

config.load_kube_config(sys.argv[1])
api = client.ApiClient()

# Discovery, as openshift's Ansible modules use it.
dyn = dynamic.DynamicClient(api)
maps = dyn.resources.get(api_version="v1", kind="ConfigMap")
maps.create(namespace="default", body={"metadata": {"name": "d"}, "data": {"a": "1"}})
applied = maps.server_side_apply(
    namespace="default",
    name="d",
    body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"b": "2"}},
    field_manager="py",
)
assert applied.data.to_dict() == {"a": "1", "b": "2"}, applied
managers = {m.manager for m in applied.metadata.managedFields}
assert "py" in managers, managers
try:
    maps.server_side_apply(
        namespace="default",
        name="d",
        body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"a": "9"}},
        field_manager="py",
    )
    raise AssertionError("a field of another manager was taken without force")
except dynamic.exceptions.ConflictError as e:
    assert 'conflict with' in str(e.body) and ".data.a" in str(e.body), e.body
seen = []
start = maps.get(namespace="default").metadata.resourceVersion
maps.patch(namespace="default", name="d", body={"data": {"a": "3"}}, content_type="application/merge-patch+json")
maps.delete(namespace="default", name="d")
for e in maps.watch(namespace="default", resource_version=start, timeout=20):
    seen.append((e["type"], e["object"].metadata.name))
    if len(seen) == 2:
        break
assert seen == [("MODIFIED", "d"), ("DELETED", "d")], seen

# A definition, its rules, and its objects.
schema = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer", "default": 5}},
            "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "min above max"}],
        }
    },
}
client.ApiextensionsV1Api().create_custom_resource_definition(
    {
        "metadata": {"name": "ranges.py.example.com"},
        "spec": {
            "group": "py.example.com",
            "scope": "Namespaced",
            "names": {"plural": "ranges", "kind": "Range"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
)
custom = client.CustomObjectsApi()
new = {"apiVersion": "py.example.com/v1", "kind": "Range", "metadata": {"name": "r"}, "spec": {"min": 1}}
made = custom.create_namespaced_custom_object("py.example.com", "v1", "default", "ranges", new)
assert made["spec"] == {"min": 1, "max": 5}, made
try:
    custom.patch_namespaced_custom_object("py.example.com", "v1", "default", "ranges", "r", {"spec": {"min": 6}})
    raise AssertionError("a rule did not hold")
except client.ApiException as e:
    assert e.status == 422 and "min above max" in e.body, e

# A job is completed as upstream completes it.
batch = client.BatchV1Api()
batch.create_namespaced_job(
    "default",
    {
        "metadata": {"name": "j"},
        "spec": {
            "template": {
                "metadata": {"annotations": {"simulation.coracle.dev/duration": "1s"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
            }
        },
    },
)
job = batch.read_namespaced_job("j", "default")
assert job.spec.parallelism == 1 and job.spec.completions == 1 and job.spec.backoff_limit == 6, job.spec
assert job.spec.selector.match_labels, "the job got a selector"

# Of two candidates one leads.
leaders, stop = [], threading.Event()


def candidate(name):
    def lead():
        leaders.append(name)
        stop.set()
        time.sleep(3600)

    lock = ConfigMapLock("lead", "default", name)
    configuration = electionconfig.Config(
        lock, lease_duration=9, renew_deadline=6, retry_period=1, onstarted_leading=lead, onstopped_leading=lambda: None
    )
    leaderelection.LeaderElection(configuration).run()


for n in ("one", "two"):
    threading.Thread(target=candidate, args=(f"{n}-{uuid.uuid4()}",), daemon=True).start()
assert stop.wait(30), "nobody leads"
time.sleep(2)
assert len(leaders) == 1, leaders
print("ok", flush=True)
os._exit(0)
