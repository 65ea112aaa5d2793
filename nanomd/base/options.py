"""What all configurations share: frozen dataclasses whose fields are checked against their types when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_origin, get_type_hints

from nanomd.base.checks import check_choice, check_finite, check_range
from nanomd.base.codec import convert
from nanomd.base.errors import InputError, shown

# Field -> the smallest and the largest value allowed; None means no bound.
Ranges: TypeAlias = Mapping[str, tuple[float, float | None]]


def option_types(options: type[Any]) -> dict[str, Any]:
    """Return the fields of a configuration and their types, ``{"n_steps": int, "mode": Literal[...], ...}``."""
    hints = get_type_hints(options)
    return {field.name: hints[field.name] for field in dataclasses.fields(options)}


class Options:
    """Base of the configurations: dictionaries in and out, and friendly errors."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    RANGES: ClassVar[Ranges] = {}
    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON or TOML."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a dictionary; unknown keys are errors, since a misspelt option must not pass."""
        known = option_types(cls)
        unknown = sorted(set(values) - set(known))
        if unknown:
            named = ", ".join(name[:40] for name in unknown[:5])
            raise InputError(f"{cls.__name__} has no option {named}; it knows {', '.join(known)}")
        for field in dataclasses.fields(cls):
            if field.name not in values and field.default is dataclasses.MISSING:
                raise InputError(f"{cls.__name__} needs the option {field.name}")
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def check(self) -> None:
        """Make every field of its type, NumPy's numbers too, and check it against `RANGES`.

        Raises
        ------
        InputError
            Naming the field, what it must be, and the value: of another type, out of range, NaN or infinite.
        """
        for name, kind in option_types(type(self)).items():
            value = getattr(self, name)
            plain = value.item() if getattr(value, "ndim", None) == 0 else value
            if get_origin(kind) is Literal:
                check_choice(name, plain, kind)
            try:
                checked = convert(plain, kind)
            except ValueError:
                wanted = kind.__name__ if isinstance(kind, type) else kind
                raise InputError(f"{type(self).__name__}.{name} must be {wanted}, got {shown(value)}") from None
            if isinstance(checked, float):
                check_finite(name, checked)
            if name in self.RANGES and checked is not None:
                check_range(name, checked, *self.RANGES[name])
            object.__setattr__(self, name, checked)
