"""Files that the processes of a control plane read: keys, tokens, kubeconfigs."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import yaml

# ``admin`` may do all; the others are what a real cluster gives each component.
_GROUP_OF_USER = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
}


class Credentials:
    """A token for each user, and the key that signs service accounts' tokens."""

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / "tokens.csv"
        self.service_account_key = folder / "service-account.key"
        self.tokens = {user: secrets.token_hex(16) for user in _GROUP_OF_USER}
        lines = [
            f'{token},{user},{number},"{_GROUP_OF_USER[user]}"'
            for number, (user, token) in enumerate(self.tokens.items())
        ]
        self.token_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.token_file.chmod(0o600)
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self.service_account_key), "2048"],
            check=True,
            capture_output=True,
        )


def write_kubeconfig(path: Path, server: str, token: str, certificate: Path) -> Path:
    """A kubeconfig with one cluster, one user and one context."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": server, "certificate-authority": str(certificate)},
            }
        ],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    path.chmod(0o600)
    return path
