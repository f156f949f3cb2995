"""kubernetes_asyncio: objects, a watch, and errors."""

import asyncio
import sys

from kubernetes_asyncio import client, config, watch


async def main():
    await config.load_kube_config(config_file=sys.argv[1])
    async with client.ApiClient() as api:
        core = client.CoreV1Api(api)
        listed = await core.list_namespaced_secret("default")
        names = [f"s{i}" for i in range(20)]

        async def create(name):
            return await core.create_namespaced_secret("default", {"metadata": {"name": name}, "stringData": {"k": name}})

        made = await asyncio.gather(*(create(n) for n in names))
        assert {m.data["k"] for m in made} and all(m.type == "Opaque" for m in made)
        seen = []
        async with watch.Watch() as w:
            stream = w.stream(
                core.list_namespaced_secret,
                "default",
                resource_version=listed.metadata.resource_version,
                timeout_seconds=20,
            )
            async for e in stream:
                seen.append(e["object"].metadata.name)
                if len(seen) == len(names):
                    break
        assert sorted(seen) == sorted(names), seen
        try:
            await core.read_namespaced_secret("none", "default")
            raise AssertionError("it is not there")
        except client.ApiException as e:
            assert e.status == 404 and 'secrets \\"none\\" not found' in e.body, e.body
        await core.delete_collection_namespaced_secret("default", field_selector="type=Opaque")
        assert not (await core.list_namespaced_secret("default", field_selector="type=Opaque")).items
    print("ok")


asyncio.run(main())
