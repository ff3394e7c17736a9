"""The way to model servers: endpoints, certificates, proxies."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from arbitrageai_native import _native, environment
from arbitrageai_native.exceptions import InvalidArgumentError, OpenAIError
from arbitrageai_native.llm.model_config import ModelConfig

from .finding import Finding, Level
from .secrets import shown_url

_SECONDS_FOR_AN_ANSWER: Final = 4.0


async def cloud_endpoint() -> list[Finding]:
    """The server at `BASE_URL`, with the key in `API_KEY`."""
    url, key = environment.cloud_base_url(), environment.cloud_api_key()
    return [await _endpoint("model endpoint", "BASE_URL", url, key, Level.ERROR)]


async def local_endpoint() -> list[Finding]:
    """The local server. One that nobody has asked for may be missing: only fallbacks would need it."""
    config = ModelConfig.from_env()
    variable = next((name for name in ("LOCAL_BASE_URL", "OLLAMA_URL") if environment.is_set(name)), None)
    wanted = variable is not None or config.use_local_by_default
    level = Level.ERROR if wanted else Level.WARNING
    place = variable or "LOCAL_BASE_URL", config.local_base_url, config.local_api_key
    return [await _endpoint("local model", *place, level)]


async def _endpoint(check: str, variable: str, base_url: str, api_key: str, if_dead: Level) -> Finding:
    place = shown_url(base_url)
    try:
        status = await _native.ask_for_models(base_url, api_key, _SECONDS_FOR_AN_ANSWER)
    except InvalidArgumentError as error:
        said = str(error).replace("base_url", variable, 1)
        return Finding(check, Level.ERROR, said, f"Set {variable} to the server's URL, with /v1 at its end.")
    except OpenAIError as error:
        remedy = f"See that the server runs, and that {variable} leads to it."
        if "certificate" in str(error).lower():
            remedy = "Let SSL_CERT_FILE name a file with the certificate of the server's authority."
        return Finding(check, if_dead, f"{place} does not answer: {error}", remedy)
    return await _judged(check, variable, base_url, status)


async def _judged(check: str, variable: str, base_url: str, status: int) -> Finding:
    place = shown_url(base_url)
    if status == 200:
        verified = ", its certificate verified" if base_url.strip().lower().startswith("https:") else ""
        return Finding(check, Level.OK, f"{place} answers{verified}")
    if status in (401, 403):
        name = "LOCAL_API_KEY" if check == "local model" else "API_KEY"
        said = f"refuses the key with {status}" if environment.is_set(name) else "wants a key"
        return Finding(check, Level.ERROR, f"{place} {said}", f"Set {name} to a key that the server knows.")
    if status == 404 and await _is_healthy(base_url):
        return Finding(check, Level.OK, f"{place} answers, without a list of models")
    if status == 404:
        said = f"{place} answers, but has no /models there"
        return Finding(check, Level.WARNING, said, f"See whether {variable} lacks /v1 at its end.")
    if status == 429 or status < 400:
        remedy = f"See what stands between this machine and the server that {variable} means."
        return Finding(check, Level.WARNING, f"{place} answers with {status}", remedy)
    return Finding(check, Level.ERROR, f"{place} answers with {status}", "See the model server's own log.")


async def _is_healthy(base_url: str) -> bool:
    try:
        return await _native.ask_for_health(base_url, _SECONDS_FOR_AN_ANSWER / 2) == 200
    except OpenAIError:
        return False


async def certificates() -> list[Finding]:
    """Whom TLS trusts."""
    file = environment.certificate_file()
    try:
        count = await _native.trusted_certificates()
    except OpenAIError as error:
        remedy = "Let SSL_CERT_FILE name a file of certificates in PEM that this user may read, or unset it."
        return [Finding("certificates", Level.ERROR, str(error), remedy)]
    whose = f"in {file} (SSL_CERT_FILE)" if file else "of the system"
    if count == 0:
        remedy = "Install the system's certificates (Debian: ca-certificates), or set SSL_CERT_FILE."
        return [Finding("certificates", Level.ERROR, "none found: no https server is trusted", remedy)]
    return [Finding("certificates", Level.OK, f"{count} {whose}")]


async def proxies() -> list[Finding]:
    """Proxies on the way, and whether local servers are reached without."""
    found = {name: url for name, url in getproxies_environment().items() if name in ("http", "https", "all")}
    if not found:
        return [Finding("proxies", Level.OK, "none")]
    detail = ", ".join(f"{name}: {shown_url(url)}" for name, url in sorted(found.items()))
    local = urlsplit(ModelConfig.from_env().local_base_url)
    is_on_this_machine = local.hostname in ("localhost", "127.0.0.1", "::1")
    has_a_proxy = local.scheme in found or "all" in found
    if is_on_this_machine and has_a_proxy and not proxy_bypass(str(local.hostname)):
        said = f"{detail}; calls of the local model at {local.hostname} would go there, too"
        return [Finding("proxies", Level.WARNING, said, f"Add {local.hostname} to NO_PROXY.")]
    return [Finding("proxies", Level.OK, detail)]
