"""Bodies of requests, as pydantic checks them; the limits of a server are checked beside."""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from dat_rec.errors import UserError
from dat_rec.retrieval.answer import K
from dat_rec.serve.limits import FILTER_LETTERS, QUOTAS, Limits

INT64 = 2**63
Number = Annotated[StrictInt, Field(ge=-INT64, lt=INT64)]
Text = Annotated[StrictStr, Field(max_length=1000)]
ONE_KIND = "give a list of whole numbers of 64 bits, or one of texts of 1,000 letters at most"
Ids = list[Number] | list[Text]
"""Ids of one kind, as the log has them."""
Finite = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Scalar = StrictBool | Number | Finite | Text | None
Value = Scalar | Annotated[list[Scalar], Field(max_length=10_000)]
"""Of a feature."""
Most = Annotated[StrictInt, Field(ge=1, lt=2**31)]


class Body(BaseModel):
    """What all requests for lists have."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    k: Most | None = None
    """Number of items in a list, fewer where no more may be shown; 100 of a large catalogue."""
    filter: Annotated[StrictStr, Field(max_length=FILTER_LETTERS)] | None = None
    """SQL over columns of items, true of those that may be shown."""
    available: Ids | None = None
    """Ids of the items that may be shown; others are passed over."""
    per_category: Most | None = None
    """Maximum number of items of one category in a list."""
    quotas: Annotated[dict[Text, Most], Field(max_length=QUOTAS)] = Field(default_factory=dict)
    """The same of any columns of items."""

    _default: int = PrivateAttr(K)

    def length(self, items: int) -> int:
        """K, where a list can have so many items."""
        return min(self._default, items) if self.k is None else self.k

    def check(self, limits: Limits) -> None:
        """Compare with what the server allows.

        Raises:
            UserError: names the field, its value and the limit.
        """
        self._default = min(K, limits.k)
        _at_most("k", self.k or 0, limits.k)
        _at_most("available: ids", len(self.available or ()), limits.ids)


class Recommend(Body):
    """The best items of some users."""

    user_ids: Ids | None = None
    """Users, as the log calls them; one that the export does not know is without a past."""
    queries: list[dict[Text, Value]] | None = None
    """In place of user_ids: raw values of the features, as the log has them, a history as a list of
    item ids, the most recent last; user_id, where it is known."""
    exclude_seen: StrictBool = False
    """Leave out what the user had in training."""
    exclude: Ids | None = None
    """Ids of items to leave out; others are passed over."""
    blend_history: StrictBool = False
    """Rank with each user's own history blended in."""

    def check(self, limits: Limits) -> None:
        """As ``Body.check``."""
        super().check(limits)
        if (self.user_ids is None) == (self.queries is None):
            raise UserError("user_ids, queries: give one of them")
        if self.queries is not None and self.blend_history:
            raise UserError("blend_history: is of the export's users: leave it out with queries")
        _at_most("user_ids: users", len(self.user_ids or ()), limits.users)
        _at_most("queries", len(self.queries or ()), limits.users)
        _at_most("exclude: ids", len(self.exclude or ()), limits.ids)


class Similar(Body):
    """The nearest items of some items."""

    item_ids: Ids
    """Items that the export knows."""

    def check(self, limits: Limits) -> None:
        """As ``Body.check``."""
        super().check(limits)
        _at_most("item_ids: items", len(self.item_ids), limits.users)


class List(BaseModel):
    """One list, best first; of equal scores the catalogue's first."""

    items: list[int | str]
    scores: list[float]
    """float32, falling."""


class UserList(List):
    """A user's."""

    user_id: int | str | bool | float | list[Any] | None
    known: bool | None
    """Whether the export knows the user; null for raw values."""


class ItemList(List):
    """An item's nearest ones."""

    item_id: int | str


class Recommended(BaseModel):
    """Lists of users, all of one export."""

    export: str
    users: list[UserList]


class Nearest(BaseModel):
    """Lists of items, all of one export."""

    export: str
    items: list[ItemList]


class Health(BaseModel):
    """Whether the server answers, and from what."""

    live: bool
    ready: bool
    export: str
    """Id of the export: of what all its files hold."""
    model: str | None
    """Id of the model that its vectors are of; null for an export of an older release."""
    items: int
    users: int


class Reloaded(BaseModel):
    """The export that is served now."""

    export: str
    changed: bool


class Error(BaseModel):
    """Why a request was refused."""

    error: str


def _at_most(what: str, value: int, most: int) -> None:
    if value > most:
        raise UserError(f"{what}: {value}: this server allows {most}")


def said(errors: list[Any]) -> str:
    """Pydantic's errors in one line: of ids, which may be of two kinds, one for both."""
    found: dict[str, None] = {}
    for error in errors:
        place = [str(part) for part in error["loc"]]
        if any(part.startswith("list[constrained") for part in place):
            found[f"{place[0]}: {ONE_KIND}"] = None
        else:
            found[f"{'.'.join(place) or 'body'}: {error['msg']}"] = None
    return "; ".join(list(found)[:3])
