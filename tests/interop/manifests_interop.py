"""What `sealift manifest` prints is what Helm itself makes of the chart, and what Kubernetes and KServe take."""

import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import jsonschema
import yaml

import kubernetes_schemas as schemas
from suite import Refused, check, finish, refuses, run, skip

ROOT = pathlib.Path(__file__).parents[2]
HELM = os.environ.get("SEALIFT_HELM")
# A manifest that a page has its readers write to a file.
FILE = re.compile(r"<!-- file: (\S+\.yaml) -->\n```yaml\n(.*?)```", re.DOTALL)
IMAGE = {"registry": "registry.example/team"}
TOGGLES = {
    "csc": "storageContainers",
    "policy": "policy",
    "broker": "broker",
    "agents": "agents",
    "monitoring": "monitoring",
}
DIGEST = "sha256:" + "ab" * 32
# What people ask for, all at once.
FULL = {
    "image": {
        **IMAGE,
        "tag": "1.2.3",
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "regcred"}],
    },
    "kbs": {"url": "https://kbs.example:8443", "ca": "/etc/ssl/custom-certs/cabundle.crt"},
    "initializer": {
        "digest": DIGEST,
        "resources": {"limits": {"cpu": "8", "memory": "20Gi"}},
        "extraEnv": [
            {"name": "SEALIFT_PROGRESS_INTERVAL", "value": "10"},
            {"name": "NO_PROXY", "value": "a,b <&>"},
        ],
    },
    "storageContainers": {"all": {"enabled": True}, "download": {"enabled": True, "name": "disk"}},
    "policy": {
        "namespaceSelector": {"matchLabels": {"sealift.dev/models": "on"}},
        "pods": {"caConfigMap": "ca"},
    },
    "broker": {
        "enabled": True,
        "digest": DIGEST,
        "replicas": 2,
        "tls": {"certManager": {"issuer": "internal", "dnsNames": ["kbs.example"]}},
        "storage": {"size": "5Gi", "className": "encrypted", "accessModes": ["ReadWriteMany"]},
        "configMap": "attestation",
        "extraArgs": ["--reference-values=/etc/sealift/reference-values.json"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "extraVolumes": [{"name": "collateral", "configMap": {"name": "tdx"}}],
        "extraVolumeMounts": [{"name": "collateral", "mountPath": "/etc/tdx"}],
        "service": {"type": "LoadBalancer", "annotations": {"a.example/b": "c"}},
        "networkPolicy": {
            "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "egress": [{"ports": [{"port": 443}]}],
        },
        "podDisruptionBudget": {"maxUnavailable": None, "minAvailable": 1},
        "podLabels": {"team": "a"},
        "podAnnotations": {"a.example/scrape": "true"},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "runtimeClassName": "kata-qemu-snp",
    },
    "agents": {
        "enabled": True,
        "kubeletRoot": "/data/kubelet",
        "metricsPort": 9999,
        "extraArgs": ["--nri-refuse-subpath"],
        "extraEnv": [{"name": "SEALIFT_LOG", "value": "debug"}],
        "seLinuxOptions": {"type": "spc_t"},
        "nodeSelector": {"katacontainers.io/kata-runtime": None, "kata": "yes"},
        "tolerations": [{"key": "tee", "operator": "Exists"}],
        "priorityClassName": "system-node-critical",
    },
    "monitoring": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "brokerTls": {"ca": {"secret": {"name": "ca", "key": "ca.crt"}}, "serverName": "kbs.example"},
    },
    "runtimeClasses": [{"name": "kata-qemu-snp", "handler": "kata-qemu-snp"}],
    "example": {"form": "override", "runtimeClassName": "kata-qemu-snp"},
}
BETA = {"policy": {"apiVersion": "admissionregistration.k8s.io/v1beta1"}}
CASES = {
    "defaults": {"image": IMAGE},
    "everything": FULL,
    "the volume written out": {
        "image": IMAGE,
        "example": {"form": "explicit"},
        "policy": {"enabled": False},
    },
    "the policy's beta": {"image": IMAGE, **BETA},
    "no network policies": {
        "image": IMAGE,
        "broker": {"enabled": True, "networkPolicy": {"enabled": False}},
        "agents": {"enabled": True, "networkPolicy": {"enabled": False}},
        "policy": {"pods": {"enabled": False}},
    },
}
# Maps whose members have any name.
FREE = {"labels", "annotations", "matchLabels", "nodeSelector", "limits", "requests", "selector"}


# Maps of Kubernetes' own among the values.
OPEN = "resources", "podSecurityContext", "nodeSelector", "podDisruptionBudget"


def ours(values, scratch, *kinds):
    path = scratch / "values.yaml"
    path.write_text(json.dumps(values))
    documents = []
    for kind in kinds or kinds_of(values):
        text = run("sealift", "manifest", kind, "--values", path, "--namespace", "models")
        documents += yaml.safe_load_all(text)
    return documents


def kinds_of(values):
    """What is on: by these values, or by the chart's."""
    defaults = yaml.safe_load((ROOT / "deploy/chart/values.yaml").read_text())
    on = [
        kind
        for kind, toggle in TOGGLES.items()
        if values.get(toggle, {}).get("enabled", defaults[toggle]["enabled"])
    ]
    return [*on, "isvc", "llmisvc"]


def helms(values, scratch):
    chart = scratch / "chart"
    if not chart.exists():
        shutil.copytree(ROOT / "deploy/chart", chart)
        for example in (ROOT / "deploy/examples").glob("*isvc.yaml"):
            shutil.copy(example, chart / "templates")
    path = scratch / "values.yaml"
    path.write_text(json.dumps(values))
    command = [HELM, "template", "release", chart, "--namespace", "models", "--values", path]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise Refused(done.stderr.decode())
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def by_name(documents):
    return sorted(documents, key=lambda document: (document["kind"], document["metadata"]["name"]))


def struct_keys(node, path=()):
    """Where each field is whose name the schema knows."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from struct_keys(item, (*path, index))
    elif isinstance(node, dict):
        for name, value in node.items():
            if not (path and path[-1] in FREE):
                yield (*path, name)
            yield from struct_keys(value, (*path, name))


def misspelt(document, path):
    changed = copy.deepcopy(document)
    below = changed
    for step in path[:-1]:
        below = below[step]
    below[path[-1] + "X"] = below.pop(path[-1])
    return changed


def containers(documents):
    """Containers of models and the broker, with their pods' security."""
    for document in documents:
        spec = document.get("spec", {})
        match document["kind"]:
            case "ClusterStorageContainer":
                yield {}, spec["container"]
            case "StatefulSet":
                pod = spec["template"]["spec"]
                for container in pod["containers"]:
                    yield pod["securityContext"], container
            case "InferenceService":
                for container in spec["predictor"].get("initContainers", []):
                    yield {}, container
            case "LLMInferenceService":
                for container in spec["template"]["initContainers"]:
                    yield {}, container


def is_restricted(pod, container):
    """Pod Security's level `restricted`, and what it does not ask for: a root that is only read."""
    security = {**pod, **container["securityContext"]}
    assert security["runAsNonRoot"] is True and "runAsUser" not in security
    assert security["allowPrivilegeEscalation"] is False and "privileged" not in security
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"] is True


def schema_of(value, path=()):
    """What Helm shall take for a value: of the kind that is there, and no other names.

    Maps that are empty, and those of Kubernetes' own, are open, as for `sealift manifest`.
    """
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case str():
            return {"type": ["string", "number"]}
        case list():
            return {"type": "array"}
    open_ended = not value or path[-1:] in [(name,) for name in OPEN]
    if open_ended:
        return {"type": "object"}
    below = {name: schema_of(item, (*path, name)) for name, item in value.items()}
    return {"type": "object", "additionalProperties": False, "properties": below}


def of_values(scratch):
    with check("deploy/chart/values.schema.json has the names of values.yaml"):
        values = yaml.safe_load((ROOT / "deploy/chart/values.yaml").read_text())
        # Helm's own, and of charts above.
        schema = schema_of(values)
        schema["properties"]["global"] = {"type": "object"}
        found = json.loads((ROOT / "deploy/chart/values.schema.json").read_text())
        assert found == schema, f"it should be:\n{json.dumps(schema)}"
    with check("a misspelt value is refused, by Helm too"):
        for render in (ours, helms) if HELM else (ours,):
            for wrong in {"regsitry": "a"}, {"registry": ["a"]}, {"registry": {"host": "a"}}:
                values = {"image": {**IMAGE, **wrong}}
                refuses(lambda: render(values, scratch), Refused)
            refuses(lambda: render({"image": IMAGE, "brokers": {}}, scratch), Refused)


def of_helm(scratch):
    for name, values in CASES.items():
        with check(f"Helm makes the same of the chart: {name}"):
            theirs = helms(values, scratch)
            theirs = [document for document in theirs if document["kind"] != "RuntimeClass"]
            assert by_name(ours(values, scratch)) == by_name(theirs)
    with check("both refuse to guess where the images are"):
        for render in ours, helms:
            try:
                render({}, scratch)
            except Refused as error:
                assert "image.registry is empty: say where the images are" in str(error), error
            else:
                raise AssertionError("they guessed")
    with check("both refuse a variable that the policy could not copy"):
        secret = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "b", "key": "c"}}}
        values = {"image": IMAGE, "initializer": {"extraEnv": [secret]}}
        for render in ours, helms:
            refuses(lambda: render(values, scratch), Refused)
        assert ours(values, scratch, "csc")[0]["spec"]["container"]["env"][-1] == secret
    with check("helm lint has nothing to say"):
        lint = [HELM, "lint", "--strict", ROOT / "deploy/chart", "--set", "image.registry=a/b"]
        subprocess.run(lint, check=True, capture_output=True)


def of_kubernetes(scratch):
    for release in schemas.RELEASES:
        for name, values in CASES.items():
            with check(f"Kubernetes {release} knows every field: {name}"):
                if release < "1.36":
                    values = {**values, "policy": {**values.get("policy", {}), **BETA["policy"]}}
                elif name == "the policy's beta":
                    continue
                if HELM:
                    documents = helms(values, scratch)
                else:
                    documents = ours(values, scratch)
                for document in documents:
                    # KServe's are held against KServe's; schemas of cert-manager and of Prometheus'
                    # operator come in no package.
                    if document["apiVersion"].split("/")[0] in (
                        "serving.kserve.io",
                        "cert-manager.io",
                        "monitoring.coreos.com",
                    ):
                        continue
                    schemas.validate(document, release)
    with check("before 1.36 the policy's v1 is refused"):
        refuses(
            lambda: [
                schemas.validate(d, "1.35.0") for d in ours({"image": IMAGE}, scratch, "policy")
            ],
            schemas.NoSchema,
        )
    with check("a misspelt field is refused, wherever it is"):
        documents = [d for d in ours(FULL, scratch) if d["apiVersion"].split(".")[0] != "serving"]
        kinds, fields = set(), 0
        for document in documents:
            if document["apiVersion"].startswith(("cert-manager.io", "monitoring.coreos.com")):
                continue
            for path in struct_keys(document):
                if path in (("kind",), ("apiVersion",)):
                    continue
                planted = misspelt(document, path)
                refuses(
                    lambda: schemas.validate(planted, schemas.RELEASES[-1]),
                    jsonschema.ValidationError,
                )
                fields += 1
            kinds.add(document["kind"])
        print(f"  {fields} fields of {len(kinds)} kinds: {', '.join(sorted(kinds))}")
        assert len(kinds) == 9 and fields > 200


    with check("replicas of the broker share one claim, and its log goes where it is sent"):
        values = {"image": IMAGE, "broker": {"enabled": True, "replicas": 2, "auditFile": "-"}}
        documents = ours(values, scratch, "broker")
        claims = [d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"]
        (broker,) = (d["spec"] for d in documents if d["kind"] == "StatefulSet")
        pod = broker["template"]["spec"]
        mounted = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == "data"]
        assert mounted == claims and len(claims) == 1 and "volumeClaimTemplates" not in broker
        arguments = pod["containers"][0]["args"]
        assert [a for a in arguments if a.startswith("--audit-file")] == ["--audit-file=-"]


def of_kserve(scratch):
    if not schemas.KSERVE:
        skip("KServe's CRDs know every field", "no SEALIFT_KSERVE_FIXTURES")
        return
    releases = [name for name in schemas.kserve_files() if name.startswith("crds-")]
    for release in releases:
        with check(
            f"KServe's {release} know the storage containers, and the init container written out"
        ):
            values = copy.deepcopy(FULL)
            values["storageContainers"]["supportsMultiModelDownload"] = release > "crds-0.17"
            for document in ours(values, scratch, "csc", "isvc"):
                schemas.validate_kserve(document, release)
    newest = releases[-1]
    for form in "auto", "explicit":
        with check(f"KServe's {newest} know the InferenceService: {form}"):
            document = ours({"image": IMAGE, "example": {"form": form}}, scratch, "isvc")[0]
            schemas.validate_kserve(document, newest)
            refuses(
                lambda: schemas.validate_kserve(document, releases[0]), jsonschema.ValidationError
            )
    for name in schemas.kserve_files():
        if name.startswith("llminferenceservices"):
            with check(f"KServe's {name} know the LLMInferenceService"):
                for values in {"image": IMAGE}, FULL:
                    schemas.validate_kserve(ours(values, scratch, "llmisvc")[0], name)
    with check("KServe's CRDs refuse a misspelt field, wherever it is"):
        fields = 0
        for document in ours(FULL, scratch, "csc", "isvc"):
            for path in struct_keys(document):
                # The CRDs leave metadata to the API server.
                if path[0] in ("apiVersion", "kind", "metadata"):
                    continue
                planted = misspelt(document, path)
                refuses(
                    lambda: schemas.validate_kserve(planted, newest), jsonschema.ValidationError
                )
                fields += 1
        print(f"  {fields} fields")
        assert fields > 50


def of_pages():
    """What the pages have their readers apply, up to the API server's door."""
    for page in sorted((ROOT / "docs").glob("**/*.md")):
        for file, text in FILE.findall(page.read_text()):
            for document in filter(lambda found: "kind" in found, yaml.safe_load_all(text)):
                name = f"{page.relative_to(ROOT)}: {file}, {document['kind']}"
                of_kserve = document["apiVersion"].startswith("serving.kserve.io/")
                if of_kserve and not schemas.KSERVE:
                    skip(name, "no SEALIFT_KSERVE_FIXTURES")
                    continue
                with check(name):
                    if of_kserve:
                        newest = [crds for crds in schemas.kserve_files() if crds.startswith("crds-")]
                        schemas.validate_kserve(document, newest[-1])
                        continue
                    for release in schemas.RELEASES:
                        schemas.validate(document, release)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        of_values(scratch)
        if HELM:
            of_helm(scratch)
        else:
            skip("Helm makes the same of the chart", "no SEALIFT_HELM")
        of_kubernetes(scratch)
        of_kserve(scratch)
        of_pages()
        with check(
            "initializers and broker pass Pod Security's restricted, with a root that is only read"
        ):
            found = 0
            for values in CASES.values():
                for pod, container in containers(ours(values, scratch)):
                    is_restricted(pod, container)
                    found += 1
            assert found > 10
        with check("nothing mounts a token, nothing asks for a role"):
            for document in ours(FULL, scratch):
                assert "Role" not in document["kind"]
                if document["kind"] in ("ServiceAccount", "StatefulSet", "DaemonSet"):
                    pod = document.get("spec", {}).get("template", {}).get("spec", document)
                    assert pod["automountServiceAccountToken"] is False
        with check("every argument and variable is one of the program's"):
            documents = ours(FULL, scratch)
            for kind, program in ("StatefulSet", "sealift-broker"), ("DaemonSet", "sealift-host"):
                pod = next(d for d in documents if d["kind"] == kind)["spec"]["template"]["spec"]
                arguments = pod["containers"][0]["args"]
                # Help is the answer to what is understood up to there.
                run(program, *arguments, "--help")
                refuses(lambda: run(program, arguments[0], "--no-such", "--help"), Refused)
            known = run("sealift", "init", "--help").decode()
            found = set()
            for _, container in containers(documents):
                if container["name"] == "storage-initializer":
                    found |= {variable["name"] for variable in container["env"]}
            found = {name for name in found if name.startswith("SEALIFT_")}
            assert len(found) > 4 and all(f"[env: {name}=" in known for name in found), found
        with check("the node's agent has one capability, and no more of the host than it names"):
            pod = next(d for d in ours(FULL, scratch) if d["kind"] == "DaemonSet")["spec"][
                "template"
            ]["spec"]
            (container,) = pod["containers"]
            assert container["securityContext"]["capabilities"] == {
                "drop": ["ALL"],
                "add": ["DAC_READ_SEARCH"],
            }
            assert container["securityContext"]["privileged"] is False
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
            written = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert written == {"state", "socket"}
    finish()


main()
