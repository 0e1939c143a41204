"""Kubernetes' own schemas and KServe's own CRDs, strict: a field that they do not have is refused."""

import functools
import gzip
import json
import os
import pathlib

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

SCHEMAS = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
# The last four releases that the package has.
RELEASES = sorted(
    (path.name.split("-")[0].removeprefix("v") for path in SCHEMAS.glob("v*-local-strict")),
    key=lambda release: [int(part) for part in release.split(".")],
)[-4:]
# Where KServe's CRDs are: crds-<release>.yaml.gz and others. They come in no package.
KSERVE = os.environ.get("SEALIFT_KSERVE_FIXTURES")


class NoSchema(Exception):
    """A release has no such kind."""


def definitions(release):
    """All of a release's schemas, by name."""
    return _load(release, "_definitions")["$defs"]


@functools.cache
def _load(release, name):
    path = SCHEMAS / f"v{release}-local-strict" / f"{name}.json"
    if not path.is_file():
        raise NoSchema(f"{name} in {release}")
    return json.loads(path.read_text())


@functools.cache
def _validator(release, kind, api_version):
    group, _, version = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.split(".")[0], version)))
    schema = _load(release, name)
    contents = map(Resource.from_contents, (schema, _load(release, "_definitions")))
    return jsonschema.Draft202012Validator(schema, registry=contents @ Registry())


def validate(document, release):
    """Fails unless Kubernetes of this release knows every field of the document."""
    _validator(release, document["kind"], document["apiVersion"]).validate(document)


@functools.cache
def kserve_files():
    """The CRDs of each file, by the file's name."""
    files = {}
    for path in sorted(pathlib.Path(KSERVE).glob("*.yaml.gz")):
        with gzip.open(path, "rt") as file:
            files[path.name.removesuffix(".yaml.gz")] = list(yaml.load_all(file, yaml.CSafeLoader))
    return files


def validate_kserve(document, name):
    """Fails unless the CRDs of this file know every field of the document."""
    _kserve_validator(name, document["kind"], document["apiVersion"]).validate(document)


@functools.cache
def _kserve_validator(name, kind, api_version):
    group, _, version = api_version.partition("/")
    for crd in kserve_files()[name]:
        spec = (crd or {}).get("spec", {})
        if (spec.get("group"), spec.get("names", {}).get("kind")) != (group, kind):
            continue
        for served in spec["versions"]:
            if served["name"] == version:
                return jsonschema.Draft202012Validator(_strict(served["schema"]["openAPIV3Schema"]))
    raise NoSchema(f"{api_version} {kind} in {name}")


def _strict(schema):
    """As the API server treats it with strict field validation."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        name: {key: _strict(value) for key, value in below.items()}
        if name == "properties"
        else _strict(below)
        for name, below in schema.items()
    }
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not open_ended:
        # Members that the API server brings with it.
        for name in "apiVersion", "kind", "metadata":
            if schema.get("properties", {}).get("spec"):
                strict["properties"].setdefault(name, {})
        strict.setdefault("additionalProperties", False)
    return strict
