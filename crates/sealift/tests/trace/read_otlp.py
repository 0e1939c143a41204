"""What the files named hold, read with OpenTelemetry's own messages: a span a line, as JSON."""

import json
import pathlib
import sys

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def plain(attributes):
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in attributes
    }


for path in sys.argv[1:]:
    request = ExportTraceServiceRequest()
    request.ParseFromString(pathlib.Path(path).read_bytes())
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                assert not span.events and not span.links
                row = {
                    "name": span.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "status": [span.status.code, span.status.message],
                    "ordered": 0 < span.start_time_unix_nano <= span.end_time_unix_nano,
                    "attributes": plain(span.attributes),
                    "resource": plain(of_resource.resource.attributes),
                }
                print(json.dumps(row))
