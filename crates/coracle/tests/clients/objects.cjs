// @kubernetes/client-node: typed objects, patches, a watch, an informer, custom objects, errors.
"use strict";
const assert = require("node:assert/strict");
const { createRequire } = require("node:module");

const [kubeconfig, packages] = process.argv.slice(2);

async function main() {
  const k8s = await import(createRequire(`${packages}/`).resolve("@kubernetes/client-node"));
  const kc = new k8s.KubeConfig();
  kc.loadFromFile(kubeconfig);
  const core = kc.makeApiClient(k8s.CoreV1Api);
  const apps = kc.makeApiClient(k8s.AppsV1Api);
  const namespace = "default";

  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "a" }, data: { k: "v" } } });
  const patched = await core.patchNamespacedConfigMap(
    { name: "a", namespace, body: [{ op: "replace", path: "/data/k", value: "w" }] },
    k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.JsonPatch),
  );
  assert.deepEqual(patched.data, { k: "w" });

  // A watch, and an informer on top of one.
  const seen = [];
  const informer = k8s.makeInformer(kc, `/api/v1/namespaces/${namespace}/configmaps`, () =>
    core.listNamespacedConfigMap({ namespace }),
  );
  const done = new Promise((resolve, reject) => {
    informer.on("error", reject);
    informer.on("add", (o) => seen.push(`add ${o.metadata.name}`));
    informer.on("update", (o) => seen.push(`update ${o.metadata.name}`));
    informer.on("delete", (o) => {
      seen.push(`delete ${o.metadata.name}`);
      resolve();
    });
    setTimeout(() => reject(new Error(`the informer saw only ${seen}`)), 20000).unref();
  });
  await informer.start();
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "b" } } });
  await core.replaceNamespacedConfigMap({ name: "b", namespace, body: { metadata: { name: "b" }, data: { x: "1" } } });
  await core.deleteNamespacedConfigMap({ name: "b", namespace });
  await done;
  await informer.stop();
  assert.deepEqual(
    seen.filter((s) => s.endsWith(" b")),
    ["add b", "update b", "delete b"],
  );

  // Objects of any kind.
  const objects = k8s.KubernetesObjectApi.makeApiClient(kc);
  const labels = { app: "web" };
  const spec = {
    replicas: 2,
    selector: { matchLabels: labels },
    template: { metadata: { labels }, spec: { containers: [{ name: "c", image: "i" }] } },
  };
  await objects.create({ apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "web", namespace }, spec });
  const web = await apps.readNamespacedDeployment({ name: "web", namespace });
  assert.equal(web.spec.strategy.type, "RollingUpdate");

  await assert.rejects(core.readNamespacedConfigMap({ name: "none", namespace }), (e) => {
    assert.equal(e.code, 404);
    assert.match(JSON.stringify(e.body), /configmaps \\+"none\\+" not found/);
    return true;
  });
  await verifyToken(kc, core, namespace);
  console.log("ok");
}

// A service account's token, verified as a cloud would: by the issuer's published keys alone.
async function verifyToken(kc, core, namespace) {
  const { createPublicKey, verify } = require("node:crypto");
  const get = async (path) => {
    const https = require("node:https");
    const options = {};
    await kc.applyToHTTPSOptions(options);
    return new Promise((resolve, reject) => {
      https
        .get(kc.getCurrentCluster().server + path, options, (answer) => {
          let text = "";
          answer.on("data", (d) => (text += d));
          answer.on("end", () => resolve(JSON.parse(text)));
        })
        .on("error", reject);
    });
  };
  const name = "default";
  const made = await core.createNamespacedServiceAccountToken({ name, namespace, body: { spec: { audiences: ["cloud"] } } });
  const [header, claims, signature] = made.status.token.split(".");
  const read = (part) => JSON.parse(Buffer.from(part, "base64url").toString());
  const found = await get("/.well-known/openid-configuration");
  assert.equal(read(claims).iss, found.issuer);
  assert.deepEqual(read(claims).aud, ["cloud"]);
  const { keys } = await get(new URL(found.jwks_uri).pathname);
  const jwk = keys.find((k) => k.kid === read(header).kid);
  const key = { key: createPublicKey({ key: jwk, format: "jwk" }), dsaEncoding: "ieee-p1363" };
  assert.ok(verify("sha256", `${header}.${claims}`, key, Buffer.from(signature, "base64url")));
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
