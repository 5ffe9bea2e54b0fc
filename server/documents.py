"""The answers and bodies as the OpenAPI document describes them; answers are made by ``answers``."""

from typing import Any, Literal

from pydantic import BaseModel, Field

Map = list[list[float]]
IMAGE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, TIFF or BMP"}
_BASE64 = {"type": "string", "format": "byte", "description": "the image's file in base64"}


class Model(BaseModel):
    """The model that answers."""

    name: str = Field(examples=["efficientnet_lite0"])
    fingerprint: str = Field(description="SHA-256 over the weights")
    pooling: str = Field(examples=["avg"])
    head: str = Field(examples=["none"])
    dimension: int = Field(examples=[1280])


class Grid(BaseModel):
    """The cells of a map, and the rectangle of the photo's pixels that they divide evenly."""

    rows: int = Field(examples=[7])
    columns: int = Field(examples=[7])
    x: float = Field(examples=[0.0])
    y: float = Field(examples=[0.0])
    width: float = Field(examples=[640.0])
    height: float = Field(examples=[480.0])


class Size(BaseModel):
    """Pixels of a photo, EXIF orientation applied."""

    height: int = Field(examples=[480])
    width: int = Field(examples=[640])


class Comparison(BaseModel):
    """The cosine of two images and what each place adds to it."""

    score: float = Field(examples=[0.83])
    residuals: list[float] = Field(description="what no place owns; score = sum of a map + its residual")
    maps: list[Map] = Field(description="of a against b and of b against a")
    influence: list[Map] = Field(description="how the score changes with the weight of each place")
    grids: list[Grid]
    images: list[Size]
    model: Model
    points: Map | None = Field(
        None, description="with points=true: what place x of a and y of b add together"
    )


class Embedding(BaseModel):
    """The embedding of an image, not normalised."""

    embedding: list[float]
    image: Size
    model: Model


class Maps(BaseModel):
    """What each place of an image adds to its cosine with each vector."""

    scores: list[float]
    residuals: list[float]
    maps: list[Map]
    view: Literal["contribution", "influence"]
    grid: Grid
    image: Size
    model: Model


class Hit(BaseModel):
    """One image of the index."""

    rank: int = Field(examples=[1])
    id: str = Field(examples=["cats/1.jpg"])
    label: str | None = Field(examples=["cats"])
    score: float = Field(description="the cosine with the whole query", examples=[0.83])
    region_score: float | None = Field(description="the part of it inside the region, which ranks")
    query_map: Map | None = Field(None, description="with maps=true: of the query against the hit")
    map: Map | None = Field(None, description="with maps=true: of the hit against the query or its region")
    grid: Grid | None = None
    image: Size | None = Field(None, description="with maps=true: of the hit's file")


class Results(BaseModel):
    """The most similar images of the index."""

    hits: list[Hit]
    weights: Map | None = Field(description="the share of each cell of the query inside the region")
    view: Literal["contribution", "influence"]
    model: Model


class About(BaseModel):
    """What the server has open, and its limits."""

    model: Model
    index: dict[str, int] | None = Field(examples=[{"images": 1000}])
    limits: dict[str, int] = Field(
        examples=[{"max_bytes": 33554432, "max_pixels": 40000000, "max_results": 100}]
    )


class Added(BaseModel):
    """An image that the index has now."""

    id: str = Field(examples=["uploads/0f1e2d.jpg"])


class State(BaseModel):
    """Of the server."""

    status: str = Field(examples=["ready"])


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["urn:simmap:problem:image"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["a: is cut off; copy or download it again"])
    request_id: str | None = None
    field: str | None = Field(None, examples=["a"])
    error: str | None = None


def body(images: dict[str, bool], others: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """The ``requestBody`` of a form or a JSON object.

    Args:
        images: whether each image must be there.
        others: schemas of the other fields, which may be missing unless they say ``"x-required": True``.
    """
    others = others or {}
    needed = [name for name, must in images.items() if must]
    needed += [name for name, schema in others.items() if schema.get("x-required")]
    plain = {name: {k: v for k, v in schema.items() if k != "x-required"} for name, schema in others.items()}

    def schema(image: dict[str, Any]) -> dict[str, Any]:
        properties = {**dict.fromkeys(images, image), **plain}
        return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}

    content = {
        "multipart/form-data": {
            "schema": schema(IMAGE),
            "encoding": {
                name: {"contentType": "application/json"}
                for name, one in plain.items()
                if one["type"] == "array"
            },
        },
        "application/json": {"schema": schema(_BASE64)},
    }
    return {"requestBody": {"required": True, "content": content}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of the problems that any route has, and of ``statuses``."""
    media = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    words = {
        400: "Bad request", 401: "No key, or an unknown one", 403: "A key without the permission",
        404: "There is none", 406: "Not acceptable", 408: "The request came too slowly", 409: "Refused",
        413: "Too large", 415: "Another content type", 422: "An invalid field, vector or image",
        429: "Too many requests", 499: "The client has left",
        503: "Overloaded, or not ready", 507: "The disk is full",
    }  # fmt: skip
    return {
        status: {"description": words[status], "content": media} for status in (400, 401, 403, 429, *statuses)
    }


WORK = (408, 413, 415, 422, 499, 503)
