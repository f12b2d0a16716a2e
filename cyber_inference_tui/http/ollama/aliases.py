"""Copies models and makes variants of them: both are aliases in the configuration file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.http.ollama.model_lists import named
from cyber_inference_tui.http.ollama.options import llama_options
from cyber_inference_tui.library.catalog import LocalModel, spelling
from cyber_inference_tui.library.ids import AUTO
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.settings.example import toml_value
from cyber_inference_tui.settings.schema import RequestRules
from cyber_inference_tui.text import escaped

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

AliasTable = Mapping[str, RequestRules]
"""The names of a model, each with its rules."""

_NO_RULES = RequestRules()
_LATEST = ":latest"


class Aliases:
    """Adds and removes aliases, one at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._changing = asyncio.Lock()

    async def copy(
        self, source: str, destination: str, changes: Mapping[str, Any] | None = None
    ) -> None:
        """Give the model ``source`` a further name, with the rules of the name ``source``.

        ``changes`` are added to the defaults of requests that use it. The name is taken away from
        another model that has it as an alias. Raises ``ModelNotFoundError``, and ``ConflictError``
        if it is the id of a model.
        """
        alias = without_latest(destination)
        models = self._service.models
        async with self._changing:
            owner = self._owner(named(models, source), source)
            if spelling(alias, (AUTO, *models.catalog.models)) is not None:
                raise ConflictError(
                    f'"{escaped(alias, limit=200)}" is the id of a model.',
                    hint="Choose another name.",
                )
            table = self._table(owner)
            rules = table.get(spelling(source, table) or "", _NO_RULES)
            if changes:
                defaults = {**rules.request_defaults, **changes}
                rules = msgspec.structs.replace(rules, request_defaults=defaults)
            if owner == AUTO and rules:
                raise ConflictError(
                    f"{AUTO} means different models, so a name of it has no parameters.",
                    hint="Name the model itself.",
                )
            for former in list(self._service.configuration.loaded.settings.models):
                while (spelt := spelling(alias, self._table(former))) is not None:
                    await self._remove(former, spelt)
            await self._write(owner, {**self._table(owner), alias: rules})

    async def delete(self, name: str) -> None:
        """Remove a name of a model, or the files of a model that is named by its id.

        A loaded model is unloaded before, after its requests. Raises ``ModelNotFoundError``.
        """
        models = self._service.models
        async with self._changing:
            model = named(models, name)
            owner = self._owner(model, name)
            spelt = spelling(name, (owner, *self._table(owner)))
            if spelt != owner:
                # A name that the file no longer has names no files.
                await self._remove(owner, spelt or name)
                return
        if owner == AUTO:
            raise ConflictError(f"{AUTO} is no model that can be deleted.")
        if models.record(model.id).status not in {ModelStatus.UNLOADED, ModelStatus.FAILED}:
            await models.unload(model.id, force=False)
        await models.delete(model.id)

    def _owner(self, model: LocalModel, name: str) -> str:
        """Return the table that has this name: that of the model, or of ``auto``.

        Raises ``ConflictError`` for a preset, which has no names of its own to change.
        """
        if model.preset_of or spelling(name, model.presets) is not None:
            raise ConflictError(
                f"{escaped(name, limit=200)} is a preset of {model.preset_of or model.id}.",
                hint="Change its table in the configuration file.",
            )
        return AUTO if self._service.models.catalog.is_auto(name) else model.id

    def _table(self, owner: str) -> AliasTable:
        """Return the aliases of a model, as the file has them."""
        aliases = self._service.configuration.value(_key(owner))
        return aliases if isinstance(aliases, dict) else dict.fromkeys(aliases, _NO_RULES)

    async def _remove(self, owner: str, alias: str) -> None:
        table = {name: rules for name, rules in self._table(owner).items() if name != alias}
        await self._write(owner, table)

    async def _write(self, owner: str, table: AliasTable) -> None:
        """Write aliases: as a list if none has rules."""
        if not table:
            await self._service.configuration.unset(_key(owner))
        elif any(table.values()):
            await self._service.configuration.set(_key(owner), msgspec.to_builtins(table))
        else:
            await self._service.configuration.set(_key(owner), list(table))


def _key(owner: str) -> str:
    return f"models.{toml_value(owner)}.aliases"


def without_latest(name: str) -> str:
    """Return a name without Ollama's usual tag ``:latest``."""
    return name[: -len(_LATEST)] if name.lower().endswith(_LATEST) else name


def changes_of(system: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the defaults of requests that ``create`` sets for a new name.

    Options that belong to a load, and unknown ones, are left out as Ollama does. Raises
    ``HttpError`` for an option of a wrong type.
    """
    changes = llama_options(dict(parameters or {}))
    return {"system": system, **changes} if system else changes
