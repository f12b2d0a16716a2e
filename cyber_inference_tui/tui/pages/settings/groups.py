"""In which group of the Settings page a key stands."""

from __future__ import annotations

from collections.abc import Sequence

from cyber_inference_tui.records import ConfigValueRecord

OTHER = "Other"
GROUPS: dict[str, tuple[str, ...]] = {
    "Models": (
        "models_dir",
        "model_dirs",
        "discover",
        "default_context_size",
        "max_context_size",
        "allow_smaller_context",
        "model_idle_timeout",
    ),
    "Memory": ("max_loaded_models", "max_memory_percent", "max_gpu_memory_percent"),
    "llama-server": (
        "llama_server_path",
        "llama_gpu_layers",
        "llama_threads",
        "llama_parallel",
        "llama_args",
        "llama_server_base_port",
        "load_timeout",
        "stop_timeout",
    ),
    "Requests": (
        "max_concurrent_requests",
        "max_queue",
        "queue_timeout",
        "max_overtake",
        "stall_timeout",
        "max_body_size",
    ),
    "Access": (
        "host",
        "port",
        "api_keys",
        "admin_password",
        "allowed_hosts",
        "cors_origins",
        "insecure_no_auth",
    ),
    "Hub": ("hf_endpoint", "hf_token", "hf_allowed_hosts"),
    "Service": ("data_dir", "log_level", "shutdown_timeout", "sample_interval", "system_root"),
    "Terminal": ("theme", "refresh_rate"),
}


def grouped(
    settings: Sequence[ConfigValueRecord],
) -> list[tuple[str, list[ConfigValueRecord]]]:
    """The settings by group, in the order of ``GROUPS``; what it does not know comes last."""
    known = {record.key: record for record in settings}
    found = []
    for group, keys in GROUPS.items():
        members = [known.pop(key) for key in keys if key in known]
        if members:
            found.append((group, members))
    if known:
        found.append((OTHER, list(known.values())))
    return found
