"""Read the configured hub: its address, its token, and the hosts that it may redirect to."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from yarl import URL

from cyber_inference_tui.errors import HubError
from cyber_inference_tui.files import read_file
from cyber_inference_tui.settings.environment import home_of, variable
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.settings.values import expanded
from cyber_inference_tui.text import clean_line

PUBLIC_HUB = "https://huggingface.co"
_OWN_HOSTS = ("huggingface.co", "*.huggingface.co", "*.hf.co")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_MAX_TOKEN = 4096
_TOKEN = re.compile(r"[\x21-\x7e]+")


class HubEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The address of the hub, and the hosts that downloads may come from."""

    url: str = PUBLIC_HUB
    token: str = ""
    token_source: str = "hf_token"  # noqa: S105 - a name
    """The setting, variable or file that the token comes from, for messages."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts beyond the hub's own: ``name`` (the scheme's default port), ``name:port`` or
    ``*.name``."""

    def file_url(self, repo: str, revision: str, path: str) -> URL:
        """Return the address of a file; the hub may redirect from there."""
        base = URL(self.url)
        return base.joinpath(*repo.split("/"), "resolve", revision, *path.split("/"))

    def is_own(self, url: URL) -> bool:
        """Return whether ``url`` has the scheme, host and port of the endpoint."""
        return url.origin() == URL(self.url).origin()

    def headers(self, url: URL) -> dict[str, str]:
        """Return the header with the token if ``url`` is the endpoint's own, else no header."""
        if self.token and self.is_own(url):
            return {"Authorization": f"Bearer {self.token}"}
        return {}

    def check(self, url: URL) -> None:
        """Raise ``HubError`` unless a download may come from ``url``."""
        shown = clean_line(str(url.origin()) if url.absolute else str(url), limit=200)
        if url.host is None or url.scheme not in _DEFAULT_PORTS or url.user or url.password:
            raise HubError(f"{self.url} redirects to {shown}, which is not a web address.")
        if self.is_own(url):
            return
        if url.scheme != "https" and url.scheme != URL(self.url).scheme:
            raise HubError(f"{self.url} redirects to {shown}, which is not encrypted; refused.")
        place = f"{url.host}:{url.port}"
        default = _DEFAULT_PORTS[url.scheme]
        for entry in (*_OWN_HOSTS, *self.allowed_hosts):
            has_port = entry.rpartition(":")[2].isdecimal()
            pattern = entry.lower() if has_port else f"{entry.lower()}:{default}"
            if pattern == place or (pattern.startswith("*.") and place.endswith(pattern[1:])):
                return
        raise HubError(
            f"{self.url} redirects to {shown}, which is not one of the hub's hosts; refused.",
            hint="If you trust it, add it to hf_allowed_hosts.",
        )


def read_endpoint(settings: Settings, environ: Mapping[str, str]) -> HubEndpoint:
    """Read the hub from the settings, else from the environment, else from the hub's own files.

    It may read a file, so do not call it on the event loop. Raises ``HubError`` if the hub's
    address is not valid. The variables and files are those of the hub's own tools:
    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    """
    url = (settings.hf_endpoint or variable(environ, "HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")
    try:
        URL(url).origin()
    except ValueError as error:
        raise HubError(
            f"{clean_line(url, limit=200)} is not the address of a hub.",
            hint="Set hf_endpoint, or HF_ENDPOINT, to one such as https://huggingface.co.",
        ) from error
    token, source = settings.hf_token, "hf_token"
    if not token:
        token, source = _token_of(environ)
    return HubEndpoint(
        url=url,
        token=token,
        token_source=source,
        allowed_hosts=settings.hf_allowed_hosts,
    )


def proxy_for(url: URL, environ: Mapping[str, str]) -> str | None:
    """Return the proxy that the environment sets for ``url`` by ``HTTPS_PROXY``, ``NO_PROXY`` etc.

    Lower-case names win, even if they are empty. A proxy without a scheme is an HTTP proxy. Raises
    ``HubError`` for a proxy of another kind, such as SOCKS.
    """

    def variable(name: str) -> tuple[str, str]:
        used = name if name in environ else name.upper()
        return used, environ.get(used, "").strip()

    name, proxy = variable(f"{url.scheme}_proxy")
    if not proxy:
        name, proxy = variable("all_proxy")
    if not proxy or _without_proxy(url, variable("no_proxy")[1]):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    scheme = proxy.partition("://")[0].lower()
    if scheme not in _DEFAULT_PORTS:
        kind = "SOCKS" if scheme.startswith("socks") else clean_line(scheme, limit=20)
        raise HubError(
            f"{name} names a {kind} proxy, but {kind} proxies are not supported.",
            hint=f"Set an HTTP proxy in {url.scheme.upper()}_PROXY, or add {url.host} to NO_PROXY.",
        )
    return proxy


def _without_proxy(url: URL, no_proxy: str) -> bool:
    """Return whether ``NO_PROXY`` lists the host: by name, by domain or by network."""
    host = (url.host or "").lower()
    for entry in no_proxy.lower().replace(" ", ",").split(","):
        name = entry.removeprefix("*.").lstrip(".")
        if name == "*" or (name and f".{host}".endswith(f".{name}")):
            return True
        if name in {f"{host}:{url.port}", f"[{host}]", f"[{host}]:{url.port}"}:
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name.strip("[]"), strict=False):
                return True
    return False


def _token_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the token and its source; the token is empty if there is none."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if _TOKEN.fullmatch(token := variable(environ, name).strip()):
            return token, name
    path = variable(environ, "HF_TOKEN_PATH")
    if not path:
        cache = variable(environ, "XDG_CACHE_HOME") or "~/.cache"
        path = str(Path(variable(environ, "HF_HOME") or f"{cache}/huggingface") / "token")
    try:
        place = expanded(Path(path), folder=None, home=home_of(environ))
        token = read_file(place, _MAX_TOKEN).decode("ascii").strip()
    except (OSError, ValueError):
        # No file, no permission or no text: there is no token.
        token = ""
    return (token, f"the file {path}") if _TOKEN.fullmatch(token) else ("", "")
