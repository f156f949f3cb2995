"""kubernetes_asyncio: objects, a watch, errors; and a watch over WebSocket, as browsers have it."""

import asyncio
import base64
import json
import ssl
import sys

import aiohttp

from kubernetes_asyncio import client, config, watch


async def over_websocket(core, api):
    """The token is among the subprotocols, of which the server takes the other one."""
    url = api.configuration.host.replace("https://", "wss://") + "/api/v1/namespaces/default/configmaps?watch=1"
    tls = api.rest_client.pool_manager.connector._ssl
    await core.create_namespaced_service_account("default", {"metadata": {"name": "reader"}})
    request = {"spec": {"expirationSeconds": 600}}
    token = (await core.create_namespaced_service_account_token("reader", "default", request)).status.token
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    protocols = [f"base64url.bearer.authorization.k8s.io.{encoded}", "watch"]
    # Without a client certificate the token is who calls.
    tls_anonymous = ssl.create_default_context(cafile=api.configuration.ssl_ca_cert)
    async with aiohttp.ClientSession() as session:
        try:
            await session.ws_connect(url, ssl=tls_anonymous, protocols=protocols)
            raise AssertionError("the reader may not read yet")
        except aiohttp.WSServerHandshakeError as e:
            assert e.status == 403, e
        rbac = client.RbacAuthorizationV1Api(api)
        subject = {"kind": "ServiceAccount", "name": "reader", "namespace": "default"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
        await rbac.create_cluster_role_binding({"metadata": {"name": "r"}, "subjects": [subject], "roleRef": role})
        async with session.ws_connect(url, ssl=tls_anonymous, protocols=protocols) as ws:
            assert ws.protocol == "watch", ws.protocol
            names = await events(ws, 1)
            assert names == [("ADDED", "kube-root-ca.crt")], names
            await core.create_namespaced_config_map("default", {"metadata": {"name": "w"}})
            await core.delete_namespaced_config_map("w", "default")
            assert await events(ws, 2) == [("ADDED", "w"), ("DELETED", "w")]
        async with session.ws_connect(url + "&timeoutSeconds=1", ssl=tls) as ws:
            async for message in ws:
                assert message.type == aiohttp.WSMsgType.TEXT, message
            assert ws.close_code == 1000, ws.close_code
        headers = {"Accept": "application/vnd.kubernetes.protobuf"}
        async with session.ws_connect(url, ssl=tls, headers=headers) as ws:
            message = await ws.receive(20)
            assert message.type == aiohttp.WSMsgType.BINARY and b"ADDED" in message.data, message


async def events(ws, count):
    seen = [json.loads((await ws.receive(20)).data) for _ in range(count)]
    return [(e["type"], e["object"]["metadata"]["name"]) for e in seen]


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
        await over_websocket(core, api)
        await core.delete_collection_namespaced_secret("default", field_selector="type=Opaque")
        assert not (await core.list_namespaced_secret("default", field_selector="type=Opaque")).items
    print("ok")


asyncio.run(main())
