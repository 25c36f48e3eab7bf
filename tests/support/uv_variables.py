"""Variables of a shell that uv must not see, and those that it must."""

from __future__ import annotations

DECIDES = {
    "UV_EXCLUDE_NEWER": "2022-01-01T00:00:00Z", "UV_PYTHON": "3.12", "UV_SYSTEM_PYTHON": "1", "UV_RESOLUTION": "lowest",
    "UV_NO_VERIFY_HASHES": "1", "UV_NO_BINARY": "1", "UV_LINK_MODE": "copy", "UV_NO_CACHE": "1", "UV_PROJECT": "/p",
    "UV_TORCH_BACKEND": "cu128", "UV_CONSTRAINT": "/c", "UV_OVERRIDE": "/o", "UV_PYTHON_PREFERENCE": "system",
    "PIP_INDEX_URL": "x", "PIP_CONSTRAINT": "/c", "VIRTUAL_ENV": "/v", "CONDA_PREFIX": "/c", "CONDA_EXE": "/conda",
    "PYTHONPATH": "/p", "PYTHONHOME": "/h", "PYTHONSTARTUP": "/s", "RUST_LOG": "debug", "FORCE_COLOR": "1",
}  # fmt: skip
"""Variables of a shell that may decide what is built, or what uv says of it."""
REACHES = {
    "UV_DEFAULT_INDEX": "https://a.example/simple", "UV_INDEX": "https://b.example/simple", "UV_INDEX_URL": "u",
    "UV_EXTRA_INDEX_URL": "e", "UV_FIND_LINKS": "/wheels", "UV_NO_INDEX": "1", "UV_INDEX_MINE_PASSWORD": "secret",
    "UV_INDEX_STRATEGY": "first-index", "UV_KEYRING_PROVIDER": "subprocess", "UV_INSECURE_HOST": "h", "UV_OFFLINE": "1",
    "UV_NATIVE_TLS": "1", "UV_HTTP_TIMEOUT": "7", "UV_HTTP_RETRIES": "0", "UV_CONFIG_FILE": "/uv.toml",
    "UV_NO_CONFIG": "1", "UV_PYTHON_INSTALL_DIR": "/pythons", "UV_PYTHON_DOWNLOADS": "never", "PATH": "/bin",
    "HTTPS_PROXY": "http://proxy", "NO_PROXY": "here", "SSL_CERT_FILE": "/pem", "NETRC": "/netrc", "HOME": "/me",
}  # fmt: skip
"""Variables that say how a machine gets packages and Pythons, and others that are none of uv's."""
