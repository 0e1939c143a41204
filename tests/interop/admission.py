"""Kubernetes' MutatingAdmissionPolicy, played with the CEL that Google wrote in C++.

What is Kubernetes' own is added here: `Object…{}` with the fields of the Pod's schema and no others,
`JSONPatch{}`, quantities, and `indexOf` of lists. The order is the API server's: policies, webhooks,
then once more the policies that matched before, if anything was changed.
"""

import copy
import re
from fractions import Fraction

from cel_expr_python import cel
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    struct_pb2,
    wrappers_pb2,
)

import kubernetes_schemas as schemas

SUFFIXES = {"": 1, "m": Fraction(1, 1000), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SUFFIXES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
OBJECT = re.compile(r"\bObject((?:\.\w+)*)(?=\{)")
FIELD = descriptor_pb2.FieldDescriptorProto
WELL_KNOWN = any_pb2, struct_pb2, wrappers_pb2


class Denied(Exception):
    """A policy with `failurePolicy: Fail` could not be evaluated, or its patch not be applied."""


def quantity(text):
    found = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)([a-zA-Z]*)", text)
    if not found or found[2] not in SUFFIXES:
        raise ValueError(f"not a quantity: {text}")
    value = Fraction(found[1]) * SUFFIXES[found[2]]
    if value.denominator != 1:
        raise ValueError(f"not an integer: {text}")
    return int(value)


def functions():
    of, number, text, listed = (
        cel.Overload,
        cel.Type.INT,
        cel.Type.STRING,
        cel.Type.List(cel.Type.DYN),
    )
    member = {"is_member": True}
    return [
        cel.FunctionDecl("quantity", [of("quantity", number, [text], impl=quantity)]),
        cel.FunctionDecl("asInteger", [of("q_int", number, [number], impl=lambda q: q, **member)]),
        cel.FunctionDecl(
            "isLessThan",
            [of("q_less", cel.Type.BOOL, [number, number], impl=lambda a, b: a < b, **member)],
        ),
        cel.FunctionDecl(
            "indexOf", [of("l_index", number, [listed, text], impl=index_of, **member)]
        ),
    ]


def index_of(items, item):
    items = list(items)
    return items.index(item) if item in items else -1


def pod_schema(definitions, path):
    """The schema at a path of the Pod's, lists looked through, and whether there was one last."""
    schema, is_list = {"$ref": "#/definitions/io.k8s.api.core.v1.Pod"}, False
    for name in [None, *path]:
        if name is not None:
            schema = schema["properties"][name]
        is_list = "items" in schema
        schema = schema.get("items", schema)
        while "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema, is_list


class Cel:
    """Expressions of a policy."""

    def __init__(self, texts, release):
        definitions = schemas.definitions(release)
        self.pool = descriptor_pool.DescriptorPool()
        for module in WELL_KNOWN:
            self.pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        file = descriptor_pb2.FileDescriptorProto(name="pod.proto", syntax="proto2")
        file.dependency.extend(module.DESCRIPTOR.name for module in WELL_KNOWN)
        paths = {tuple(found.split(".")[1:]) for text in texts for found in OBJECT.findall(text)}
        for path in sorted(paths):
            message = file.message_type.add(name="_".join(("Object", *path)))
            schema, _ = pod_schema(definitions, path)
            for number, name in enumerate(sorted(schema["properties"]), 1):
                below, is_list = pod_schema(definitions, (*path, name))
                known = (*path, name) in paths
                self.field(
                    message,
                    number,
                    name,
                    is_list,
                    below,
                    "_".join(("Object", *path, name)) if known else None,
                )
        message = file.message_type.add(name="JSONPatch")
        for number, name in enumerate(("op", "path", "from"), 1):
            message.field.add(
                name=name, number=number, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_STRING
            )
        message.field.add(
            name="value",
            number=4,
            label=FIELD.LABEL_OPTIONAL,
            type=FIELD.TYPE_MESSAGE,
            type_name=".google.protobuf.Any",
        )
        self.pool.AddSerializedFile(file.SerializeToString())
        variables = {"object": cel.Type.DYN, "variables": cel.Type.DYN}
        self.env = cel.NewEnv(self.pool, variables=variables, functions=functions())

    @staticmethod
    def field(message, number, name, is_list, schema, type_name):
        kinds = {
            "boolean": FIELD.TYPE_BOOL,
            "integer": FIELD.TYPE_INT64,
            "string": FIELD.TYPE_STRING,
        }
        kind = schema.get("type")
        kind = next((k for k in kind if k != "null"), None) if isinstance(kind, list) else kind
        if type_name is None and kind not in kinds:
            type_name = (
                "google.protobuf.Struct"
                if "additionalProperties" in schema
                else "google.protobuf.Value"
            )
        message.field.add(
            name=name,
            number=number,
            label=FIELD.LABEL_REPEATED if is_list else FIELD.LABEL_OPTIONAL,
            type=FIELD.TYPE_MESSAGE if type_name else kinds[kind],
            type_name=f".{type_name}" if type_name else None,
        )

    def value(self, text, pod, variables):
        """What an expression says; messages as JSON."""
        flat = OBJECT.sub(lambda found: "Object" + found[1].replace(".", "_"), text)
        try:
            result = self.env.compile(flat).eval(data={"object": pod, "variables": variables})
        except Exception as error:
            raise Denied(f"{text}: {error}") from error
        if result.type() in (cel.Type.ERROR, cel.Type.UNKNOWN):
            raise Denied(f"{text}: {result.value()}")
        return self.json(result.plain_value())

    def json(self, value):
        if isinstance(value, (list, tuple)):
            return [self.json(item) for item in value]
        if isinstance(value, dict):
            return {name: self.json(item) for name, item in value.items()}
        if not hasattr(value, "DESCRIPTOR"):
            return value
        name = value.DESCRIPTOR.full_name
        if name == "google.protobuf.Any":
            descriptor = self.pool.FindMessageTypeByName(value.TypeName())
            inner = message_factory.GetMessageClass(descriptor)()
            inner.ParseFromString(value.value)
            return self.json(inner)
        if name == "google.protobuf.Struct":
            return {key: self.json(item) for key, item in value.fields.items()}
        if name == "google.protobuf.ListValue":
            return [self.json(item) for item in value.values]
        if name == "google.protobuf.Value":
            return self.json(getattr(value, value.WhichOneof("kind")))
        if name.startswith("google.protobuf."):
            return value.value
        return {
            field.name: [self.json(item) for item in below]
            if field.is_repeated
            else self.json(below)
            for field, below in value.ListFields()
        }


class Policy:
    """A MutatingAdmissionPolicy."""

    def __init__(self, document, release):
        self.name, spec = document["metadata"]["name"], document["spec"]
        assert spec["failurePolicy"] == "Fail" and spec["reinvocationPolicy"] == "IfNeeded"
        self.conditions = [condition["expression"] for condition in spec["matchConditions"]]
        self.variables = {v["name"]: v["expression"] for v in spec["variables"]}
        self.mutations = [m["jsonPatch"]["expression"] for m in spec["mutations"]]
        texts = [*self.conditions, *self.variables.values(), *self.mutations]
        self.cel = Cel(texts, release)

    def matches(self, pod):
        """Errors of a condition refuse every pod there is, so there must be none."""
        return all(self.cel.value(text, pod, {}) for text in self.conditions)

    def mutate(self, pod):
        for text in self.mutations:
            # Kubernetes evaluates them when they are used; here none may fail unused either.
            variables = {}
            for name, expression in self.variables.items():
                variables[name] = self.cel.value(expression, pod, variables)
            pod = patched(pod, self.cel.value(text, pod, variables))
        return pod


def patched(pod, operations):
    """RFC 6902's `add` and `replace`, as far as policies use them."""
    pod = copy.deepcopy(pod)
    for operation in operations:
        *steps, last = operation["path"].split("/")[1:]
        below = pod
        for step in steps:
            below = below[int(step) if isinstance(below, list) else step]
        match operation["op"], below:
            case "add", list() if last == "-":
                below.append(operation["value"])
            case "add", dict():
                below[last] = operation["value"]
            case "replace", dict() if last in below:
                below[last] = operation["value"]
            case _:
                raise Denied(f"cannot apply {operation}")
    return pod


def admit(pod, policies, *webhooks):
    """The pod as it is stored."""
    matched = []
    first = pod
    for policy in policies:
        if policy.matches(pod):
            matched.append(policy)
            pod = policy.mutate(pod)
    before = pod
    for webhook in webhooks:
        pod = webhook(copy.deepcopy(pod))
    if pod not in (first, before):
        for policy in matched:
            if policy.matches(pod):
                pod = policy.mutate(pod)
    return pod
