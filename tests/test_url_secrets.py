"""Passwords in URLs."""

from __future__ import annotations

import time

import pytest

from mtfrun.errors import InputError, shorten
from mtfrun.errors.url_secrets import mask_url, mask_urls

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "text",
    [
        "https://me:s3cr3t@host/a",
        "HTTPS://me:s3cr3t@host:80/a?sig=s3cr3t&se=s3cr3t",
        "https://s3cr3t@host/a",
        "redis://:s3cr3t@host",
        "postgresql+psycopg2://me:s3cr3t@host/db",
        "https://me:a@s3cr3t@[::1]:80/a",
        "https://me:a/s3cr3t@host/a",
        "https://me:a?s3cr3t@host/a",
        "https://me:a#s3cr3t@host/a",
        "https://me:a's3cr3t@host",
        '"https://me:a\' s3cr3t@host"',
        "--gin.TEXT_FILES=['https://host/a?x=s3cr3t','https://me:s3cr3t@host/b']",
        r'{"url": "https://host/a?x=a\"s3cr3t"}',
        "a=https://host/a,https://me:s3cr3t@host/b",
        "zip://a.txt::https://me:s3cr3t@host/a.zip",
        "https:///me:s3cr3t@host/a",
        "https://host/a?x:y=s3cr3t",
        "https://host/a?s3cr3t",
        "https://host/a?x=1&s3cr3t",
        "https://host/a#access_token=s3cr3t",
        "https://host/a?x=1#s3cr3t",
        "https://host/a?back=https://me:s3cr3t@host",
        "abfs://container@account/a?sig=s3cr3t",
        "s3://bucket/a?X-Amz-Signature=s3cr3t%2F&X-Amz-Credential=A/s3cr3t/b",
        "https://host/a?sig=a+b/s3cr3t==",
        f"https://host/a?sig={'a' * 5000}s3cr3t",
        "https://m\u00fc:s3cr3t@host/a\nhttps://me:s3cr3t@host",
    ],
)
def test_a_secret_is_masked(text: str) -> None:
    masked = mask_urls(text)
    assert SECRET not in masked and "***" in masked
    assert mask_urls(masked) == masked


@pytest.mark.parametrize("password", ["a s3cr3t", 'a"s3cr3t', "a\ts3cr3t"])
def test_a_secret_of_a_whole_url_is_masked(password: str) -> None:
    assert mask_url(f"https://me:{password}@host/a b") == "https://me:***@host/a b"


@pytest.mark.parametrize(
    "text",
    [
        "https://host:80/run@100",
        "s3://host:9000/run@100",
        "s3://bucket/year=202?/month=1/part-?.txt",
        "gs://bucket/**/*.txt",
        "abfs://container@account/a",
        "sqlite:////tmp/mlflow.db",
        "see https://host/page#L10, or a@b: c",
        "x = 'http://a' and 'b@c'",
    ],
)
def test_other_urls_are_left_as_they_are(text: str) -> None:
    assert mask_urls(text) == text


def test_the_sentence_around_a_url_remains() -> None:
    text = "cannot read (https://me:s3cr3t@host/a?sig=s3cr3t): it is gone, 'https://host?a=1'"
    expected = "cannot read (https://me:***@host/a?sig=***): it is gone, 'https://host?a=***'"
    assert mask_urls(text) == expected
    assert str(InputError(text)) == expected
    assert SECRET[:2] not in shorten(text, 27)  # a text that is cut before the "@"


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "://" * 10**5, "a://" * 10**5, "https://" + ")" * 10**6]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    start = time.process_time()
    mask_urls(text)
    assert time.process_time() - start < 5
