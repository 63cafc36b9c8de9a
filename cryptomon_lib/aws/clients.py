"""Clients of AWS by botocore, and what it raises in our words: what was asked, where, and what to do."""

from functools import cache
from types import TracebackType
from typing import Any, Self

from cryptomon_lib.errors import ConfigError, DeployError

_CONNECT_S, _ANSWER_S, _ATTEMPTS = 5, 60, 4
_REFUSED = ("AccessDenied", "UnauthorizedOperation", "AuthorizationError")
_STRANGER = (
    "ExpiredToken",
    "InvalidClientTokenId",
    "UnrecognizedClient",
    "InvalidSignature",
    "SignatureDoes",
)


@cache
def client(service: str, region: str, endpoint_url: str | None = None) -> Any:
    """A client of one service in a region.

    Raises ConfigError: botocore is not installed, or there is no region.
    """
    try:
        import botocore.config
        import botocore.session
    except ImportError as error:
        raise ConfigError("AWS needs botocore: pip install 'cryptomon[aws]'.") from error
    if not region:
        raise ConfigError("athena.region in params is empty: name the region that the stacks are in.")
    limits = botocore.config.Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_ANSWER_S,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
    )
    return botocore.session.get_session().create_client(
        service, region_name=region, endpoint_url=endpoint_url, config=limits
    )


class asked:
    """Turns what botocore raises into a ConfigError (credentials, rights) or a DeployError (all else)."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        import botocore.exceptions as faults

        if isinstance(error, faults.NoCredentialsError | faults.PartialCredentialsError):
            raise ConfigError(
                f"No AWS credentials to {self.what}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
                "`cryptomon deploy --dry-run` needs none."
            ) from error
        if isinstance(error, faults.ProfileNotFound):
            raise ConfigError(f"{error}: AWS_PROFILE names a profile of ~/.aws/config.") from error
        if isinstance(error, faults.ClientError):
            told = error.response.get("Error", {})
            code, says = told.get("Code", ""), told.get("Message", "")
            if code.startswith(_STRANGER):
                raise ConfigError(
                    f"AWS does not know these credentials ({self.what}): {code}: {says}. Log in anew."
                ) from error
            if code.startswith(_REFUSED):
                raise ConfigError(
                    f"These credentials may not {self.what}: {says or code}. docs/aws.md says which rights that takes."
                ) from error
            raise DeployError(f"AWS refused to {self.what}: {code}: {says}") from error
        from botocore.parsers import ResponseParserError

        if isinstance(error, ResponseParserError):
            # the whole answer stands in it: a page of whatever is between
            says = str(error).splitlines()[0][:200]
            raise DeployError(
                f"What answered when it was asked to {self.what} was not AWS, or AWS was out of order: {says} Try again; "
                "then look at AWS_ENDPOINT_URL and at the proxy."
            ) from error
        if isinstance(error, faults.BotoCoreError):
            raise DeployError(f"AWS could not be asked to {self.what}: {error}.") from error
