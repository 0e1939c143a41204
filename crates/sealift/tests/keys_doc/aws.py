"""The few commands of the AWS command line that docs/keys.md shows, by boto3: `kms OPERATION`, its
parameters as flags, `--query`, `--output text`."""

import os
import sys

import boto3
import jmespath

service, operation, *flags = sys.argv[1:]
query, parameters = None, {}
for name, value in zip(flags[::2], flags[1::2], strict=True):
    if name == "--query":
        query = value
    elif name != "--output":
        parameters["".join(word.capitalize() for word in name.strip("-").split("-"))] = value
client = boto3.client(service, endpoint_url=os.environ["AWS_ENDPOINT_URL_" + service.upper()])
answer = getattr(client, operation.replace("-", "_"))(**parameters)
if query is not None:
    print(jmespath.search(query, answer))
