"""The typed client: objects, watches, errors, scale, pages."""

from kubernetes import client, config, watch
import sys
config.load_kube_config(sys.argv[1])
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
core.create_namespaced_config_map("default", {"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "v"}})
assert core.read_namespaced_config_map("a", "default").data == {"k": "v"}
core.patch_namespaced_config_map("a", "default", {"data": {"k": "w"}})
listed = core.list_namespaced_config_map("default", label_selector="x=1")
assert [m.data for m in listed.items] == [{"k": "w"}]
w, seen = watch.Watch(), []
core.create_namespaced_config_map("default", {"metadata": {"name": "b", "labels": {"x": "1"}}})
core.delete_namespaced_config_map("b", "default")
for e in w.stream(core.list_namespaced_config_map, "default", label_selector="x=1", resource_version=listed.metadata.resource_version, timeout_seconds=10):
    seen.append((e["type"], e["object"].metadata.name))
    if len(seen) == 2: w.stop()
assert seen == [("ADDED", "b"), ("DELETED", "b")], seen
try:
    core.create_namespaced_config_map("default", {"metadata": {"name": "a"}})
    assert False
except client.ApiException as e:
    assert e.status == 409 and '"reason":"AlreadyExists"' in e.body, e
template = {"metadata": {"labels": {"app": "p"}}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "250m"}}}]}}
apps.create_namespaced_deployment("default", {"metadata": {"name": "p"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "p"}}, "template": template}})
for e in watch.Watch().stream(apps.list_namespaced_deployment, "default", timeout_seconds=60):
    if e["object"].status.ready_replicas == 2: break
else:
    assert False, "the deployment did not become ready"
scale = apps.read_namespaced_deployment_scale("p", "default")
assert scale.status.replicas == 2 and scale.status.selector == "app=p", scale
apps.patch_namespaced_deployment_scale("p", "default", {"spec": {"replicas": 0}})
pools = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodepools")
assert [p["metadata"]["name"] for p in pools["items"]] == ["default"]
assert client.VersionApi().get_code().minor == "37"
page = core.list_namespace(limit=2)
assert len(page.items) == 2 and page.metadata._continue
rest = core.list_namespace(limit=50, _continue=page.metadata._continue)
assert len(rest.items) == 2
print("ok")
