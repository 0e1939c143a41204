"""Fetches a prefix with the AWS Common Runtime, as boto3 uses it: `crt_download.py s3://BUCKET/PREFIX DEST`."""

import os
import sys

import boto3
import botocore.session
from awscrt.auth import AwsCredentialsProvider
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper,
    BotocoreCRTRequestSerializer,
    CRTTransferManager,
    create_s3_crt_client,
)


def main():
    bucket, prefix = sys.argv[1].removeprefix("s3://").split("/", 1)
    endpoint, region = os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_DEFAULT_REGION"]
    session = botocore.session.get_session()
    credentials = BotocoreCRTCredentialsWrapper(session.get_credentials())
    client = create_s3_crt_client(
        region=region,
        crt_credentials_provider=AwsCredentialsProvider.new_delegate(credentials),
        target_throughput=12_500_000_000,
        use_ssl=False,
    )
    serializer = BotocoreCRTRequestSerializer(
        session, {"region_name": region, "endpoint_url": endpoint}
    )
    listing = boto3.client("s3").get_paginator("list_objects_v2")
    with CRTTransferManager(client, serializer) as manager:
        futures = []
        for page in listing.paginate(Bucket=bucket, Prefix=prefix + "/"):
            for entry in page["Contents"]:
                name = entry["Key"].removeprefix(prefix + "/")
                target = os.path.join(sys.argv[2], name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                futures.append(manager.download(bucket, entry["Key"], target))
        for future in futures:
            future.result()


main()
