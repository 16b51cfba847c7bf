"""Settings of what governs agents; part of `Settings`."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from controlplane.security_settings import is_safe_url


class GovernanceSettings(BaseSettings):
    """The part of `Settings` about approvals."""

    approval_retention_seconds: float = Field(
        7 * 24 * 3600,
        ge=600,
        le=90 * 24 * 3600,
        description="How long approvals and standing grants that have ended are kept. What "
        "happened stays in the audit.",
    )
    approval_webhook_url: str = Field(
        "",
        description="Where approvals are told of, signed as Standard Webhooks says: opened, "
        "decided, used, ended. https; http is for loopback only.",
    )
    approval_webhook_secret_file: Path | None = Field(
        None,
        description="File with the secret of approval_webhook_url: whsec_ and base64 of 24-64 "
        "random bytes. Read again for every message.",
    )

    @field_validator("approval_webhook_url")
    @classmethod
    def _safe_webhook(cls, value: str) -> str:
        if value and not is_safe_url(value):
            raise ValueError("must be an https URL; http is for loopback only")
        return value

    @model_validator(mode="after")
    def _webhook_and_secret(self) -> Self:
        if bool(self.approval_webhook_url) != (self.approval_webhook_secret_file is not None):
            raise ValueError(
                "approval_webhook_url and approval_webhook_secret_file belong together"
            )
        return self
