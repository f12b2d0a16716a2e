"""A real llama-server works in its confinement, and so does the estimate before it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.binary import examine
from cyber_inference_tui.llama.needs import NeedSource
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.settings.schema import Settings
from tests.llama.test_launcher import Room
from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

pytestmark = pytest.mark.real


# Debian's packages have no llama-fit-params, but the function that it calls (common_fit_print).
# This program fails if it can open another file.
FIT_PARAMS = """
#include <stdio.h>
#include <string.h>
struct parameters { char bytes[8192]; };
struct parameters llama_model_default_params(void), llama_context_default_params(void);
void llama_backend_init(void), ggml_backend_load_all(void);
void fit(const char *, void *, void *)
    __asm__("_Z16common_fit_printPKcP18llama_model_paramsP20llama_context_params");
int main(int count, char **words) {
    if (strcmp(words[1], "--help") == 0)
        return puts("--model\\n--parallel\\n--fit-print") < 0;
    if (fopen(OTHER_FILE, "r"))
        return 1;
    struct parameters model = llama_model_default_params();
    struct parameters context = llama_context_default_params();
    ggml_backend_load_all();
    llama_backend_init();
    fit(words[2], &model, &context);
    return 0;
}
"""


def landlock() -> None:
    """Skip the test on a kernel without Landlock."""
    try:
        Ruleset((), ()).close()
    except OSError:
        pytest.skip("this kernel has no Landlock")


def write_fit_params(llama_server: Path, folder: Path, other: Path) -> Path:
    """Build a llama-fit-params with the libraries of a build; return the llama-server beside it."""
    folder.mkdir()
    for file in llama_server.parent.iterdir():
        # The build looks for its processors' libraries beside the program.
        (folder / file.name).symlink_to(file)
    libraries = [f"lib{name}.so.0" for name in ("llama-common", "llama", "ggml")]
    if shutil.which("cc") is None or not all((folder / one).exists() for one in libraries):
        pytest.skip("there is no C compiler, or the build keeps its libraries elsewhere")
    command = ["cc", "-x", "c", "-", "-o", str(folder / "llama-fit-params")]
    command += [f'-DOTHER_FILE="{other}"', f"-L{folder}", *(f"-l:{one}" for one in libraries)]
    command += ["-Wl,--disable-new-dtags,--allow-shlib-undefined,-rpath,$ORIGIN"]
    command += [f"-Wl,--dynamic-linker={loader}" for loader in folder.glob("ld-linux*")]
    subprocess.run(command, input=FIT_PARAMS, text=True, check=True)
    return folder / llama_server.name


@pytest.mark.parametrize("confined", [True, False])
async def test_an_estimate_is_confined_as_the_server(
    tmp_path: Path, llama_server: Path, confined: bool
) -> None:
    landlock()
    secret = tmp_path / "secret"
    secret.write_text("password")
    beside = write_fit_params(llama_server, tmp_path / "build", secret)
    found = examine(llama_server, {"PATH": os.defpath})
    assert found.libraries is not None
    binary = msgspec.structs.replace(
        found, path=beside, libraries=(*found.libraries, beside.parent)
    )
    path = tmp_path / "demo.gguf"
    write_demo(path)
    model = LocalModel(id="demo", path=path, shards=(path,), size_bytes=path.stat().st_size)
    settings = Settings(confine_servers=confined)
    need = await Room(tmp_path, lambda: binary).launcher.need(resolve(model, settings))
    assert (need.source is NeedSource.ENGINE) is confined


def facts(service: ServiceProcess) -> dict[str, str]:
    """Return facts about the process of the model ``demo``, as the kernel names them."""
    folder = Path(f"/proc/{service.model('demo')['pid']}")
    lines = (folder / "status").read_text().splitlines()
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    limits = (folder / "limits").read_text().splitlines()
    found["core"] = next(line.split()[4] for line in limits if line.startswith("Max core"))
    return found


@pytest.mark.parametrize("confined", [True, False])
def test_a_server_is_confined_unless_a_setting_says_otherwise(
    start_real: StartReal, confined: bool
) -> None:
    landlock()
    service = start_real({"confine_servers": confined})
    (service.config_path.parent / "templates").mkdir()
    (service.config_path.parent / "templates/own.jinja").write_text(TEMPLATE)
    slots = service.data_dir / "slots"
    slots.mkdir()
    arguments = ["--chat-template-file", "templates/own.jinja", "--slot-save-path", f"{slots}/"]
    with service.owner() as owner:
        answer = owner.put("/admin/config/models.%22demo%22.args", json={"value": arguments})
    assert answer.is_success, answer.text
    assert service.chat("demo").is_success
    assert service.upstream("demo", "/props")["chat_template"] == TEMPLATE
    saved = service.post("/slots/0?action=save&model=demo", json={"filename": "kept"})
    assert saved.is_success, saved.text
    assert (slots / "kept").stat().st_mode & 0o777 == 0o600
    found = facts(service)
    assert found["NoNewPrivs"] == str(int(confined))
    assert found["Umask"] == "0077"
    assert found["core"] in {"0", "1"}
