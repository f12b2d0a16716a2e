"""Changes YAML text and keeps the rest: comments, order and indentation."""

from __future__ import annotations

from typing import Any

import yaml

from cyber_inference_tui.connect.settings_change import Items, edited, place, plain


def read(text: str) -> Any:
    """Return the data of the text; an empty text is an empty mapping. Raises ``ValueError``."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(f"{where}{getattr(error, 'problem', None) or error}") from None
    return {} if data is None else data


def with_changes(text: str, changes: Any) -> str:
    """Return the text after settled ``changes``. Raises ``ValueError``."""
    read(text)
    end = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:  # nothing but comments
        start = "" if not text or text.endswith("\n") else end
        return text + start + _dumped(changes, "", end)
    editor = _Editor(text, end)
    editor.change(root, changes)
    return editor.result()


def _dumped(value: Any, indent: str, end: str) -> str:
    """Return the lines of a mapping or list in block style."""
    text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, width=10**6)
    return "".join(f"{indent}{line}{end}" for line in text.splitlines())


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


class _Editor:
    """Collects the edits of a text: positions and the text that replaces what is between them."""

    def __init__(self, text: str, end: str) -> None:
        self._text = text
        self._end = end
        self._edits: list[tuple[int, int, str]] = []

    def result(self) -> str:
        """Return the text after all edits."""
        return edited(self._text, self._edits)

    def change(self, node: Any, changes: Any) -> None:
        """Make the value of ``node`` what ``changes`` say. Raises ``ValueError``."""
        if not isinstance(changes, Items) and _plain(node) == changes:
            return
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        if isinstance(changes, dict) and block and isinstance(node, yaml.MappingNode):
            self._change_mapping(node, changes)
        elif isinstance(changes, Items) and block and isinstance(node, yaml.SequenceNode):
            present = _plain(node)
            for item in reversed(changes.items):
                found = place(present, changes.key, item)
                if found is None:
                    self._add_first(node, [item])
                else:
                    self.change(node.value[found], item)
        elif isinstance(changes, dict | Items) or block or getattr(node, "style", "") in {"|", ">"}:
            raise ValueError(f"line {node.start_mark.line + 1}: this cannot be changed by itself")
        else:
            space = " " if node.start_mark.index == node.end_mark.index else ""
            new = space + _scalar(changes)
            self._edits.append((node.start_mark.index, node.end_mark.index, new))

    def _change_mapping(self, node: Any, changes: dict[str, Any]) -> None:
        known = {key.value: (key, value) for key, value in node.value}
        added = {name: value for name, value in changes.items() if name not in known}
        for name, value in changes.items():
            if name not in known:
                continue
            key, present = known[name]
            if isinstance(value, dict | Items) and not _plain(present):
                self._fill(key, present, value)
            else:
                self.change(present, value)
        if added and node.start_mark.column == 0:
            at = len(self._text)
            start = "" if self._text.endswith("\n") else self._end
            self._edits.append((at, at, start + _dumped(added, "", self._end)))
        elif added:
            self._add_first(node, added)

    def _add_first(self, node: Any, value: Any) -> None:
        """Put the lines of ``value`` before the first of ``node``.

        The end of a nested node may be after comments that do not belong to it.
        """
        indent = " " * node.start_mark.column
        at = node.start_mark.index
        lines = _dumped(value, indent, self._end)
        self._edits.append((at, at, lines.removeprefix(indent) + indent))

    def _fill(self, key: Any, present: Any, value: Any) -> None:
        """Give a key without a content (``[]``, ``{}``, ``null`` or nothing) lines of its own."""
        lines = _dumped(value, " " * (key.start_mark.column + 2), self._end)
        start = present.start_mark.index
        start -= self._text[:start].endswith(" ")
        new = self._end + lines.removesuffix(self._end)
        self._edits.append((start, present.end_mark.index, new))


def _plain(node: Any) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)
