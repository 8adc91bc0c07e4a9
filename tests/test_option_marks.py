"""What follows from the marks of options, on a configuration made for it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Lt

from dat_rec.errors import UserError
from dat_rec.files import STRICT
from dat_rec.option_marks import (
    MAY_CHANGE,
    Absent,
    Void,
    check_bounds,
    complete,
    flatten,
    marks_of,
    option,
    path_options,
    refuse_void,
    to_json,
)

WITHOUT_OVEN = Void("without an oven", lambda config: not config.oven)


@dataclass(frozen=True)
class Dough:
    salt_g: Annotated[float, Ge(0)] = 5.0
    layers_mm: tuple[Annotated[int, Ge(1)], ...] = (3, 4)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Cake:
    book: Path
    oven: bool = True
    minutes: Annotated[int, Ge(1), Lt(600), WITHOUT_OVEN, MAY_CHANGE] = 45
    steam: Annotated[bool, WITHOUT_OVEN] = True
    scale: Annotated[Path | None, Absent("/old")] = None
    dough: Dough = field(default_factory=Dough)

    __pydantic_config__ = STRICT


CAKE = Cake(Path("/book"))


def test_marks_stand_by_dotted_names() -> None:
    assert marks_of(Cake) == {
        "book": (),
        "oven": (),
        "minutes": (Ge(1), Lt(600), WITHOUT_OVEN, MAY_CHANGE),
        "steam": (WITHOUT_OVEN,),
        "scale": (Absent("/old"),),
        "dough.salt_g": (Ge(0),),
        "dough.layers_mm": (),
    }
    assert list(marks_of(Cake)) == list(flatten(to_json(CAKE)))


def test_options_are_called_as_on_the_command_line() -> None:
    assert option("dough.layers_mm[1]") == "--dough.layers-mm"
    assert path_options(Cake) == {"--book", "--scale"}


def test_json_holds_lists_and_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = to_json(Cake(Path("book"), scale=Path("a/../scale")))
    assert (value["book"], value["scale"]) == (str(tmp_path / "book"), str(tmp_path / "scale"))
    assert value["dough"] == {"salt_g": 5.0, "layers_mm": [3, 4]}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"minutes": 0}, "--minutes is 0: it must be 1 or more"),
        ({"minutes": 600}, "--minutes is 600: it must be below 600"),
        ({"minutes": True}, "--minutes is True: it must be a valid integer"),
        ({"dough": Dough(salt_g=-0.5)}, "--dough.salt-g is -0.5: it must be 0 or more"),
        (
            {"dough": Dough(salt_g=float("inf"))},
            "--dough.salt-g is inf: it must be a finite number",
        ),
        ({"dough": Dough(layers_mm=(3, 0))}, "--dough.layers-mm is 0: it must be 1 or more"),
    ],
)
def test_a_value_beyond_its_bounds_is_refused(changed: dict[str, Any], line: str) -> None:
    check_bounds(CAKE)
    with pytest.raises(UserError) as raised:
        check_bounds(replace(CAKE, **changed))
    assert str(raised.value) == line


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"minutes": 30}, "--minutes is 30, and does nothing without an oven: leave it out"),
        ({"steam": False}, "--steam is False, and does nothing without an oven: leave it out"),
    ],
)
def test_an_option_that_another_makes_void_is_refused(changed: dict[str, Any], line: str) -> None:
    def refuse(cake: Cake) -> None:
        refuse_void(cake, flatten(to_json(cake)), flatten(to_json(CAKE)))

    refuse(replace(CAKE, oven=False))
    refuse(replace(CAKE, **changed))
    refuse(replace(CAKE, oven=False, minutes=0))
    with pytest.raises(UserError) as raised:
        refuse(replace(CAKE, oven=False, **changed))
    assert str(raised.value) == line


def test_only_what_the_previous_release_lacked_is_filled_in() -> None:
    value = to_json(CAKE)
    del value["scale"]
    assert complete(Cake, value, "cake.json", "bake anew") == to_json(CAKE) | {"scale": "/old"}
    assert "scale" not in value
    del value["dough"]["salt_g"]
    with pytest.raises(UserError, match=r"^cake\.json: dough\.salt_g is missing: bake anew$"):
        complete(Cake, value, "cake.json", "bake anew")
