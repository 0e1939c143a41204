"""The admission policies on the pods that KServe and others make, by a CEL that we did not write."""

import copy
import json
import pathlib
import subprocess
import tempfile

import yaml

import kubernetes_schemas as schemas
from admission import Denied, Policy, admit
from suite import PROGRAMS, check, finish, refuses, run

SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
SIZE = "sealift.dev/model-size"
MODEL_VOLUME = {
    "name": "kserve-provision-location",
    "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"},
}
# 16 GiB and 128 MiB.
MEMORY = str((16 << 30) + (128 << 20))
VALUES = {
    "image": {"registry": "registry.example/team"},
    "kbs": {"url": "https://kbs.example:8443", "ca": "/etc/ssl/custom-certs/cabundle.crt"},
    "policy": {"pods": {"caConfigMap": "sealift-ca"}},
    "initializer": {"extraEnv": [{"name": "SEALIFT_PROGRESS_INTERVAL", "value": "10"}]},
}


def pod(annotations, **spec):
    container = {"name": "kserve-container", "image": "server"}
    metadata = {"name": "llama", "annotations": annotations}
    if annotations is None:
        del metadata["annotations"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], **spec},
    }


def initializer(volume, path, *pairs):
    """What KServe's CreateInitContainerWithConfig makes."""
    return {
        "name": "storage-initializer",
        "image": "kserve/storage-initializer",
        "args": list(pairs),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "100m", "memory": "100Mi"},
        },
        "volumeMounts": [{"name": volume, "mountPath": path}],
    }


def kserve_webhook(made):
    """KServe's pod webhook for one URI: does nothing twice, and keeps a volume of its name."""
    source = made["metadata"].get("annotations", {}).get(SOURCE)
    spec = made["spec"]
    if source is None or any(
        c["name"] == "storage-initializer" for c in spec.get("initContainers", [])
    ):
        return made
    name = "kserve-provision-location"
    mount = {"name": name, "mountPath": "/mnt/models", "readOnly": True}
    spec["containers"][0].setdefault("volumeMounts", []).append(mount)
    spec.setdefault("initContainers", []).append(
        initializer(name, "/mnt/models", source, "/mnt/models")
    )
    if all(volume["name"] != name for volume in spec.get("volumes", [])):
        spec.setdefault("volumes", []).append({"name": name, "emptyDir": {}})
    return made


def named(items, name):
    (found,) = (item for item in items if item["name"] == name)
    return found


def memory(made):
    resources = named(made["spec"]["initContainers"], "storage-initializer")["resources"]
    return resources["limits"].get("memory"), resources.get("requests", {}).get("memory")


def of_kserve(policies):
    annotations = {SOURCE: "s3://models/llama/1", SIZE: "16Gi"}
    with check("KServe's pod: a volume before its webhook, memory after it"):
        before = admit(pod(annotations), policies)
        assert (
            before["spec"]["volumes"] == [MODEL_VOLUME] and "initContainers" not in before["spec"]
        )
        made = admit(pod(annotations), policies, kserve_webhook)
        expected = kserve_webhook(pod(annotations, volumes=[MODEL_VOLUME]))
        limits = expected["spec"]["initContainers"][0]["resources"]
        limits["limits"]["memory"] = limits["requests"]["memory"] = MEMORY
        assert made == expected
    with check("KServe's pod: a second time nothing is changed"):
        made = admit(pod(annotations), policies, kserve_webhook)
        assert admit(made, policies, kserve_webhook) == made
    with check("KServe's pod without reinvocation still has its volume in memory"):
        made = kserve_webhook(admit(pod(annotations), policies))
        assert made["spec"]["volumes"] == [MODEL_VOLUME] and memory(made) == ("1Gi", "100Mi")
    with check("volumes of others stay, and so does the place of the initializer among others"):
        spec = {
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "initContainers": [{"name": "istio-init", "image": "i"}],
        }
        made = admit(pod(annotations, **spec), policies, kserve_webhook)
        assert made["spec"]["volumes"] == [{"name": "cache", "emptyDir": {}}, MODEL_VOLUME]
        assert made["spec"]["initContainers"][0] == {"name": "istio-init", "image": "i"}
        assert memory(made) == (MEMORY, MEMORY)
    with check("a volume that the user has put in memory is the user's"):
        for directory in {"medium": "Memory", "sizeLimit": "20Gi"}, {"medium": "Memory"}:
            theirs = {"name": "kserve-provision-location", "emptyDir": directory}
            made = admit(pod(annotations, volumes=[theirs]), policies, kserve_webhook)
            assert made["spec"]["volumes"] == [theirs]
    with check("one that the user has left on a disk is memory of the user's size"):
        theirs = {"name": "kserve-provision-location", "emptyDir": {"sizeLimit": "20Gi"}}
        made = admit(pod(annotations, volumes=[theirs]), policies, kserve_webhook)
        assert made["spec"]["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "20Gi"}
        theirs = {"name": "kserve-provision-location", "persistentVolumeClaim": {"claimName": "c"}}
        made = admit(pod(annotations, volumes=[theirs]), policies, kserve_webhook)
        assert made["spec"]["volumes"] == [theirs]
    with check("several URIs: the volume that the controller names after their parent"):
        several = initializer("mnt", "/mnt", "s3://a", "/mnt/base", "s3://b", "/mnt/lora")
        spec = {
            "initContainers": [several],
            "volumes": [{"name": "mnt", "emptyDir": {}}, {"name": "other", "emptyDir": {}}],
        }
        made = admit(pod({SIZE: "16Gi"}, **spec), policies)
        assert made["spec"]["volumes"] == [
            {"name": "mnt", "emptyDir": MODEL_VOLUME["emptyDir"]},
            {"name": "other", "emptyDir": {}},
        ]
        assert memory(made) == (MEMORY, MEMORY)
        assert admit(made, policies) == made
    with check("LLMInferenceService: the controller has brought initializer and volume"):
        name = "kserve-provision-location"
        spec = {
            "initContainers": [initializer(name, "/mnt/models", "hf://a/b", "/mnt/models")],
            "volumes": [{"name": name, "emptyDir": {}}],
        }
        made = admit(pod({SIZE: "16Gi"}, **spec), policies)
        assert made["spec"]["volumes"] == [MODEL_VOLUME] and memory(made) == (MEMORY, MEMORY)
    with check("more memory than needed stays, none is invented"):
        name = "kserve-provision-location"
        for resources, kept in [
            ({"limits": {"memory": "32Gi"}, "requests": {"memory": "20Gi"}}, ("32Gi", "20Gi")),
            ({"limits": {"memory": "32Gi"}, "requests": {"memory": "1Gi"}}, ("32Gi", MEMORY)),
            ({"limits": {"cpu": "1"}}, (None, None)),
            ({"limits": {"memory": MEMORY}}, (MEMORY, None)),
        ]:
            theirs = {**initializer(name, "/mnt/models"), "resources": resources}
            made = admit(
                pod(annotations, initContainers=[theirs], volumes=[MODEL_VOLUME]), policies
            )
            assert memory(made) == kept, resources
        bare = initializer(name, "/mnt/models")
        del bare["resources"]
        made = admit(pod(annotations, initContainers=[bare], volumes=[MODEL_VOLUME]), policies)
        assert made["spec"]["initContainers"] == [bare]
    with check("a volume claim needs no memory"):
        annotated = {SOURCE: "pvc://claim/llama", SIZE: "16Gi"}
        assert admit(pod(annotated), policies) == pod(annotated)


def of_others(policies):
    with check("pods that do not ask are not touched, whatever they look like"):
        for annotations in None, {}, {SOURCE: "s3://models/a"}, {"sealift.dev/volumes": "on"}:
            assert admit(pod(annotations), policies) == pod(annotations)
            made = admit(pod(annotations), policies, kserve_webhook)
            assert made == kserve_webhook(pod(annotations))
    with check("a size that is none refuses the pod"):
        for size in "", "16 Gi", "a lot", "16GiB", "0.5":
            refuses(
                lambda: admit(pod({SOURCE: "s3://a", SIZE: size}), policies, kserve_webhook), Denied
            )
            refuses(
                lambda: admit(pod({"sealift.dev/model": "s3://a", SIZE: size}), policies), Denied
            )
        refuses(lambda: admit(pod({"sealift.dev/model": "s3://a"}), policies), Denied)


def of_plain_pods(policies):
    model = "s3://models/llama/1#key=kbs:///team/llama/v1"
    annotations = {"sealift.dev/model": model, SIZE: "16Gi"}
    made = admit(pod(annotations), policies)
    with check("a pod without KServe: volume, init container, mount"):
        volume = {**MODEL_VOLUME, "name": "sealift-model"}
        authorities = {"name": "sealift-ca", "configMap": {"name": "sealift-ca"}}
        assert made["spec"]["volumes"] == [volume, authorities]
        mount = {"name": "sealift-model", "mountPath": "/mnt/models", "readOnly": True}
        assert made["spec"]["containers"] == [
            {"name": "kserve-container", "image": "server", "volumeMounts": [mount]}
        ]
        (container,) = made["spec"]["initContainers"]
        assert container == {
            "name": "sealift",
            "image": "registry.example/team/sealift-init:0.1.0",
            "imagePullPolicy": "IfNotPresent",
            "args": [model, "/mnt/models"],
            "env": [
                {"name": "SEALIFT_REQUIRE_SEALED", "value": "true"},
                {"name": "SEALIFT_KBS_URL", "value": "https://kbs.example:8443"},
                {"name": "SEALIFT_KBS_CA", "value": "/etc/ssl/custom-certs/cabundle.crt"},
                {"name": "SEALIFT_PROGRESS_INTERVAL", "value": "10"},
            ],
            "envFrom": [
                {"secretRef": {"name": "sealift-credentials", "optional": True}},
                {"configMapRef": {"name": "sealift-settings", "optional": True}},
            ],
            "resources": {
                "requests": {"cpu": "500m", "memory": MEMORY},
                "limits": {"cpu": "4", "memory": MEMORY},
            },
            "volumeMounts": [
                {"name": "sealift-model", "mountPath": "/mnt/models"},
                {"name": "sealift-ca", "mountPath": "/etc/ssl/custom-certs", "readOnly": True},
            ],
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "runAsNonRoot": True,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
    with check("a pod without KServe: a second time nothing is changed"):
        assert admit(made, policies) == made
    with check("every container has the model, also one that a webhook adds later"):

        def sidecar(changed):
            if len(changed["spec"]["containers"]) == 2:
                changed["spec"]["containers"].append({"name": "late", "image": "l"})
            return changed

        two = pod({**annotations, "sealift.dev/model-path": "/models/llama"})
        two["spec"]["containers"].append(
            {"name": "b", "image": "b", "volumeMounts": [{"name": "c", "mountPath": "/c"}]}
        )
        two["spec"]["volumes"] = [{"name": "c", "emptyDir": {}}]
        two["spec"]["initContainers"] = [{"name": "proxy", "image": "p", "restartPolicy": "Always"}]
        changed = admit(two, policies, sidecar)
        mount = {"name": "sealift-model", "mountPath": "/models/llama", "readOnly": True}
        mounts = [container["volumeMounts"] for container in changed["spec"]["containers"]]
        assert mounts == [[mount], [{"name": "c", "mountPath": "/c"}, mount], [mount]]
        assert [c["name"] for c in changed["spec"]["initContainers"]] == ["proxy", "sealift"]
        assert changed["spec"]["initContainers"][1]["args"] == [model, "/models/llama"]
        assert changed["spec"]["volumes"][0] == {"name": "c", "emptyDir": {}}
    with check("what comes out is a Pod to the last four releases"):
        kserve = kserve_webhook
        for release in schemas.RELEASES:
            schemas.validate(made, release)
            schemas.validate(
                admit(pod({SOURCE: "s3://a", SIZE: "16Gi"}), policies, kserve), release
            )
    with check("the init container takes these arguments"):
        with tempfile.TemporaryDirectory() as directory:
            open_on_disk(made["spec"]["initContainers"][0]["args"], directory)


def open_on_disk(arguments, directory):
    """Understood as KServe's pairs are: what fails is the destination, which is no memory."""
    alias = pathlib.Path(directory) / "storage-initializer"
    alias.symlink_to((PROGRAMS / "sealift").resolve())
    source, _ = arguments
    done = subprocess.run(
        [alias, source, f"{directory}/models"],
        capture_output=True,
        env={"SEALIFT_TERMINATION_LOG": "/dev/null"},
        timeout=60,
    )
    assert done.returncode == 41, done.stderr


def main():
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "values.yaml"
        path.write_text(json.dumps(VALUES))
        text = run("sealift", "manifest", "policy", "--values", path)
    documents = list(yaml.safe_load_all(text))
    policies = [
        Policy(d, schemas.RELEASES[-1]) for d in documents if d["kind"] == "MutatingAdmissionPolicy"
    ]
    with check("each policy has its binding, and is for pods that are created"):
        bound = {d["spec"]["policyName"] for d in documents if d["kind"].endswith("Binding")}
        assert bound == {policy.name for policy in policies} and len(bound) == 2
        for document in documents:
            if document["kind"].endswith("Binding"):
                continue
            (rule,) = document["spec"]["matchConstraints"]["resourceRules"]
            assert rule == {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
            }
    with check("a field that a Pod has not is refused before it runs"):
        wrong = copy.deepcopy(documents[0])
        patch = wrong["spec"]["mutations"][0]["jsonPatch"]
        patch["expression"] = patch["expression"].replace("sizeLimit:", "sizelimit:")
        annotations = {SOURCE: "s3://a", SIZE: "16Gi"}
        refuses(lambda: Policy(wrong, schemas.RELEASES[-1]).mutate(pod(annotations)), Denied)
    of_kserve(policies)
    of_others(policies)
    of_plain_pods(policies)
    finish()


main()
