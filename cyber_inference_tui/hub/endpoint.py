"""The hub that is configured: its address, the token for it, and the hosts it may send us to."""

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
    """Where the hub is, and whom else to trust with a download."""

    url: str = PUBLIC_HUB
    token: str = ""
    token_source: str = "hf_token"  # noqa: S105 - a name
    """The setting, the variable or the file that the token comes from, for messages."""
    allowed_hosts: tuple[str, ...] = ()
    """``name`` (the scheme's own port), ``name:port`` or ``*.name``, beyond the hub's own."""

    def file_url(self, repo: str, revision: str, path: str) -> URL:
        """Where to ask for a file; the answer may lead elsewhere."""
        base = URL(self.url)
        return base.joinpath(*repo.split("/"), "resolve", revision, *path.split("/"))

    def is_own(self, url: URL) -> bool:
        """Whether ``url`` is at the endpoint itself: same scheme, host and port."""
        return url.origin() == URL(self.url).origin()

    def headers(self, url: URL) -> dict[str, str]:
        """The token, for the endpoint itself and for nobody else."""
        if self.token and self.is_own(url):
            return {"Authorization": f"Bearer {self.token}"}
        return {}

    def check(self, url: URL) -> None:
        """Raise ``HubError`` unless a download may come from ``url``."""
        shown = clean_line(str(url.origin()) if url.absolute else str(url), limit=200)
        if url.host is None or url.scheme not in _DEFAULT_PORTS or url.user or url.password:
            raise HubError(f"{self.url} leads to an address that is none of the web: {shown}.")
        if self.is_own(url):
            return
        if url.scheme != "https" and url.scheme != URL(self.url).scheme:
            raise HubError(f"{self.url} leads to an address without encryption, {shown}; refused.")
        place = f"{url.host}:{url.port}"
        default = _DEFAULT_PORTS[url.scheme]
        for entry in (*_OWN_HOSTS, *self.allowed_hosts):
            has_port = entry.rpartition(":")[2].isdecimal()
            pattern = entry.lower() if has_port else f"{entry.lower()}:{default}"
            if pattern == place or (pattern.startswith("*.") and place.endswith(pattern[1:])):
                return
        raise HubError(
            f"{self.url} leads to {shown}, which is none of the hub's hosts; refused.",
            hint="If it can be trusted, add it to hf_allowed_hosts.",
        )


def read_endpoint(settings: Settings, environ: Mapping[str, str]) -> HubEndpoint:
    """The hub as the settings have it, else the environment, else the hub's own files.

    It may read a file: not for an event loop. The places are those of the hub's own tools:
    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    Raises ``HubError`` where the hub's address is none.
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
    """The proxy that the environment names for ``url``: ``HTTPS_PROXY``, ``NO_PROXY`` and so on.

    Names in small letters win, also where they are set to nothing. A proxy without a scheme is an
    HTTP proxy. Raises ``HubError`` for a proxy of another kind, such as SOCKS.
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
            f"{name} names a {kind} proxy, and {kind} proxies are not supported.",
            hint=f"Set an HTTP proxy in {url.scheme.upper()}_PROXY, or add {url.host} to NO_PROXY.",
        )
    return proxy


def _without_proxy(url: URL, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` has the host: by its name, the name of a domain, or a network."""
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
    """The token of the environment and where it comes from; an empty token where there is none."""
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
        # No file, none that may be read, none of text: there is no token then.
        token = ""
    return (token, f"the file {path}") if _TOKEN.fullmatch(token) else ("", "")
