"""Holds what lies beside our images against their formats' own definitions: the bills of materials
against CycloneDX's JSON schema, the provenance against SLSA's and in-toto's messages.

usage: check_papers.py DIRECTORY
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from jsonschema import Draft7Validator
from referencing import Registry, Resource

SCHEMAS = files("cyclonedx.schema").joinpath("_res")


def bill_validator() -> Draft7Validator:
    def schema(name: str) -> dict:
        return json.loads(SCHEMAS.joinpath(f"{name}.SNAPSHOT.schema.json").read_text("utf-8"))

    own = schema("bom-1.5")
    registry = Registry()
    for name in ("spdx", "jsf-0.82"):
        contents = schema(name)
        for address in (contents["$id"], f"{name}.schema.json", f"{name}.SNAPSHOT.schema.json"):
            registry = registry.with_resource(address, Resource.from_contents(contents))
    return Draft7Validator(own, registry=registry, format_checker=Draft7Validator.FORMAT_CHECKER)


def check_bill(validator: Draft7Validator, bill: dict) -> None:
    errors = list(validator.iter_errors(bill))
    if errors:
        raise SystemExit(f"{errors[0].json_path}: {errors[0].message}")


def check_provenance(text: str) -> None:
    statement = json_format.Parse(text, statement_pb2.Statement())
    predicate = json_format.MessageToJson(statement.predicate)
    json_format.Parse(predicate, provenance_pb2.Provenance())


def refuses(check, *arguments) -> None:
    try:
        check(*arguments)
    except (SystemExit, json_format.ParseError):
        return
    raise SystemExit("this check lets everything pass")


def main() -> None:
    directory = Path(sys.argv[1])
    validator = bill_validator()
    bills = sorted(directory.glob("*.cdx.json"))
    assert bills, directory
    for path in bills:
        bill = json.loads(path.read_text("utf-8"))
        check_bill(validator, bill)
        assert len(bill["components"]) > 20, path
        refuses(check_bill, validator, bill | {"components": [{"name": "without a type"}]})
    provenance = directory.joinpath("provenance.json").read_text("utf-8")
    check_provenance(provenance)
    refuses(check_provenance, provenance.replace('"buildDefinition"', '"definition"'))
    print(f"{len(bills)} bills of materials and the provenance are as their formats want them")


if __name__ == "__main__":
    main()
