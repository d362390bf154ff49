"""Open sets of kinds (rewards, engines, objectives): ours, and those that other packages add.

A package adds a kind through an entry point, a script through `Registry.register`. A name always
means the same kind: bonbon's own come first, so an installed package cannot replace them.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract, isclass
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from bonbon.base_config import Config, without_secrets
from bonbon.errors import ConfigError, nearest
from bonbon.recipe_io import shown

Item_co = TypeVar("Item_co", covariant=True)
Registered = TypeVar("Registered")
Kind = TypeVar("Kind", bound="KindConfig")


class Registry(Generic[Item_co]):
    """Items by name; each is imported when it is asked for.

    Attributes:
        group: the entry-point group through which other packages add items.
        noun: what an item is called in messages, such as "reward kind".
    """

    def __init__(self, group: str, noun: str, built_in: Mapping[str, str]) -> None:
        """Take the items that come with bonbon, as `module:attribute` by name."""
        self.group = group
        self.noun = noun
        self._built_in = built_in
        self._registered: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Return a decorator that adds a class or function under a name.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self:
            raise ConfigError(f"there is {_a(self.noun)} {name!r} already; choose another name")

        def add(item: Registered) -> Registered:
            self._registered[name] = item
            return item

        return add

    def names(self) -> list[str]:
        """Return all names, bonbon's own first."""
        return list(dict.fromkeys([*self._built_in, *self._registered, *self._entry_points()]))

    def __contains__(self, name: object) -> bool:
        """Return whether there is an item of this name."""
        return name in self._built_in or name in self._registered or name in self._entry_points()

    def __getitem__(self, name: str) -> Item_co:
        """Return the item of a name.

        Raises:
            ConfigError: there is none, the package that adds it cannot be imported, or two
                packages add it.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            return getattr(import_module(module), attribute)
        points = self._entry_points().get(name)
        if points is None:
            raise ConfigError(self.unknown_line(name))
        if len(points) > 1:
            packages = " and ".join(sorted(map(_package, points)))
            raise ConfigError(
                f"the {self.noun} {name!r} comes from the packages {packages}; remove all but one"
            )
        try:
            return points[0].load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit(): a package must not end bonbon
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ConfigError(
                f"the {self.noun} {name!r} comes from the package {_package(points[0])}, which "
                f"cannot be imported ({reason}); repair or remove that package"
            ) from error

    def unknown_line(self, name: object) -> str:
        """Say that there is no item of this name, with the nearest one."""
        names = self.names()
        return (
            f"got {self.noun} {name!r}, expected one of {', '.join(names)}"
            f"{nearest(str(name), names)}"
        )

    def _entry_points(self) -> Mapping[str, list[EntryPoint]]:
        points: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            points.setdefault(point.name, []).append(point)
        return points


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


class KindConfig(Config):
    """Settings of one of several kinds; `kind` says which one.

    A subclass with a `registry` represents all its kinds: as a field's type it takes the settings
    of any of them, as keys and values or as an object. Each kind is a subclass of that one.
    """

    registry: ClassVar["Registry[type[KindConfig]]"]
    kind: Any  # a Literal in each kind, which pyright would not take in place of a str
    """Which kind."""

    @classmethod
    def in_full(cls, value: object) -> object:
        """Return a short form, such as a name alone, as keys and values."""
        return value

    @classmethod
    def read(cls: "type[Kind]", value: object) -> "Kind":
        """Return the settings of whichever kind the value names.

        Raises:
            ValueError: there is no such kind, or a key or value does not fit it.
        """
        if isinstance(value, cls):
            return value
        given = cls.in_full(value)
        if not isinstance(given, Mapping):
            raise ValueError(f"got {shown(given)}, expected a name, or keys and values")
        keys = {str(key): item for key, item in cast("Mapping[object, object]", given).items()}
        try:
            kind = _checked_kind(keys, cls.registry)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return cast("Kind", kind.model_validate(keys))

    @classmethod
    def __get_pydantic_core_schema__(
        cls,
        source: object,
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        """Validate a field of the class that has the registry by the kind that is given."""
        if "registry" not in cls.__dict__:
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            cls.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _keys_and_values, info_arg=True
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Describe a field of the class that has the registry by the names of the kinds."""
        if "registry" not in cls.__dict__:
            return handler(core_schema)
        kind = {"type": "string", "examples": cls.registry.names()}
        settings = {"type": "object", "properties": {"kind": kind}}
        return {"anyOf": [{"type": "string"}, settings]}


# `info` is pydantic's SerializationInfo, which cannot be checked at run time.
def _keys_and_values(config: KindConfig, info: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what reads back as the same settings: with the kind, though it is a default."""
    values = config.model_dump(
        mode=info.mode,
        include=info.include,
        exclude=info.exclude,
        exclude_unset=info.exclude_unset,
        exclude_defaults=info.exclude_defaults,
        exclude_none=info.exclude_none,
    )
    if info.exclude_unset or info.exclude_defaults:
        return {"kind": config.kind, **values}
    return values


def check_part_keys(given: Mapping[Any, object], part: type[Config], what: str) -> None:
    """Refuse keys that a part of a reward does not have.

    Args:
        given: the part.
        part: what it becomes.
        what: to call it.

    Raises:
        ValueError: one line, with the nearest name that would do.
    """
    for key in map(str, given):
        if key not in part.model_fields:
            known = list(part.model_fields)
            line = f"{what} has no `{without_secrets(key)}`, expected one of {', '.join(known)}"
            raise ValueError(line + nearest(key, known, quote="`"))
    if missing := _missing(given, part):
        raise ValueError(f"got {what} without `{missing}`; add it")


def _checked_kind(
    given: Mapping[str, object], registry: Registry[type[KindConfig]]
) -> type[KindConfig]:
    """Return the class that reads settings of a known kind with the keys of this kind."""
    kind, thing = given.get("kind"), registry.noun.removesuffix(" kind")
    if not isinstance(kind, str) or kind not in registry:
        raise ValueError(_unknown_kind_line(kind, given, registry, thing))
    config: object = registry[kind]
    if not _is_kind(config, registry):
        raise ConfigError(
            f"the {registry.noun} {kind!r} is {shown(config)}, expected a subclass of the config "
            "class that has the registry; repair or remove the package that adds it"
        )
    if isabstract(config):
        raise ConfigError(
            f"the {registry.noun} {kind!r} lacks {', '.join(sorted(config.__abstractmethods__))}; "
            "repair or remove the package that adds it"
        )
    for key in given:
        if key not in config.model_fields:
            raise ValueError(_unknown_key_line(key, kind, registry, thing))
    if missing := _missing(given, config):
        raise ValueError(f"got {_a(thing)} of kind {kind!r} without `{missing}`; add it")
    return config


def _is_kind(item: object, registry: Registry[type[KindConfig]]) -> TypeGuard[type[KindConfig]]:
    return (
        isclass(item)
        and issubclass(item, KindConfig)
        and "registry" not in item.__dict__
        and item.registry is registry
    )


def _keys_by_kind(registry: Registry[type[KindConfig]]) -> dict[str, list[str]]:
    """Return the keys of every kind that can be imported: a hint must not fail."""
    keys: dict[str, list[str]] = {}
    for name in registry.names():
        with suppress(ConfigError):
            item: object = registry[name]
            if _is_kind(item, registry):
                keys[name] = list(item.model_fields)
    return keys


def _missing(given: Mapping[str, object], model: type[Config]) -> str | None:
    required = (key for key, field in model.model_fields.items() if field.is_required())
    return next((key for key in required if key not in given), None)


def _unknown_kind_line(
    kind: object,
    given: Mapping[str, object],
    registry: Registry[type[KindConfig]],
    thing: str,
) -> str:
    if "kind" in given:
        return registry.unknown_line(kind)
    names = registry.names()
    fitting = [name for name, keys in _keys_by_kind(registry).items() if set(given) <= set(keys)]
    hint = f"; add `kind: {fitting[0]}`" if len(fitting) == 1 else ""
    return f"got {_a(thing)} without `kind`, expected one of {', '.join(names)}{hint}"


def _unknown_key_line(key: str, kind: str, registry: Registry[type[KindConfig]], thing: str) -> str:
    known = list(registry[kind].model_fields)
    name = without_secrets(key)
    line = f"{_a(thing)} of kind {kind!r} has no `{name}`, expected one of {', '.join(known)}"
    if hint := nearest(key, known, quote="`"):
        return line + hint
    owners = [repr(other) for other, keys in _keys_by_kind(registry).items() if key in keys]
    return f"{line}; `{name}` belongs to kind {' or '.join(owners)}" if owners else line


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
