"""The S3 server of the tests behaves like a store that says no: otherwise tests of refusals would prove nothing."""

from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from tests.s3 import BUCKET, S3Server


def _refusal(error: pytest.ExceptionInfo[ClientError]) -> int:
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_what_is_put_is_read_back_through_the_environment_alone(s3: S3Server) -> None:
    uri = f"{s3.new_root()}/a/b.bin"
    with fsspec.open(uri, "wb") as file:
        file.write(b"\x00\xff" * 1000)
    with fsspec.open(uri, "rb") as file:
        assert file.read() == b"\x00\xff" * 1000


def test_wrong_key_is_rejected(s3: S3Server) -> None:
    for change in ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "nobody"}):
        with pytest.raises(ClientError) as error:
            s3.client(s3.env | change).list_objects_v2(Bucket=BUCKET)
        assert _refusal(error) == 403


def test_read_only_identity_reads_and_cannot_write(s3: S3Server) -> None:
    s3.client().put_object(Bucket=BUCKET, Key="read-only/x", Body=b"x")
    reader = s3.client(s3.read_only_env)
    assert reader.get_object(Bucket=BUCKET, Key="read-only/x")["Body"].read() == b"x"
    with pytest.raises(ClientError) as error:
        reader.put_object(Bucket=BUCKET, Key="read-only/y", Body=b"y")
    assert _refusal(error) == 403


def test_if_none_match_lets_one_of_many_writers_win(s3: S3Server) -> None:
    def put(writer: int) -> int:
        try:
            s3.client().put_object(Bucket=BUCKET, Key="contended", Body=bytes([writer]), IfNoneMatch="*")
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"]
        return 200

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(put, range(8)))
    assert sorted(codes) == [200] + [412] * 7
    assert s3.client().get_object(Bucket=BUCKET, Key="contended")["Body"].read() == bytes([codes.index(200)])


def test_stopped_server_is_unreachable_and_comes_back_with_its_content(s3: S3Server) -> None:
    s3.client().put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    s3.stop()
    try:
        with pytest.raises(EndpointConnectionError):
            s3.client().head_object(Bucket=BUCKET, Key="kept")
    finally:
        s3.start()
    assert s3.client().get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"


def test_revoked_keys_are_refused_and_hold_again_after_it(s3: S3Server) -> None:
    s3.client().put_object(Bucket=BUCKET, Key="mine", Body=b"mine")
    mine = s3.env
    with s3.revoked(), pytest.raises(ClientError) as error:
        s3.client(mine).get_object(Bucket=BUCKET, Key="mine")
    assert _refusal(error) == 403
    assert s3.env == mine
    assert s3.client().get_object(Bucket=BUCKET, Key="mine")["Body"].read() == b"mine"


def test_two_servers_run_side_by_side(s3: S3Server) -> None:
    with S3Server() as other:
        assert other.endpoint != s3.endpoint
        folder = other.folder
        with pytest.raises(ClientError) as error:
            s3.client(other.env).list_objects_v2(Bucket=BUCKET)
        assert _refusal(error) == 403
    assert not folder.exists()
