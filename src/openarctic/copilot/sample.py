"""The bundled sample: Northwind Outdoor, a small retail company, made by this file alone, the same on every machine.

Ten related tables, a few thousand rows. It is written to the user's cache on first use, and only when whole.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from openarctic.config import cache_folder
from openarctic.copilot.databases import Database, open_database
from openarctic.errors import UserError

VERSION = 1
SEED = 20240424

_TABLES = """
CREATE TABLE regions (region_id INTEGER PRIMARY KEY, name VARCHAR);
CREATE TABLE stores (store_id INTEGER PRIMARY KEY, name VARCHAR, city VARCHAR, country VARCHAR,
  region_id INTEGER REFERENCES regions (region_id), opened DATE);
CREATE TABLE employees (employee_id INTEGER PRIMARY KEY, name VARCHAR, job_title VARCHAR, salary INTEGER, hired DATE,
  store_id INTEGER REFERENCES stores (store_id));
CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, name VARCHAR, email VARCHAR, city VARCHAR, country VARCHAR,
  segment VARCHAR, joined DATE);
CREATE TABLE categories (category_id INTEGER PRIMARY KEY, name VARCHAR);
CREATE TABLE suppliers (supplier_id INTEGER PRIMARY KEY, name VARCHAR, country VARCHAR);
CREATE TABLE products (product_id INTEGER PRIMARY KEY, name VARCHAR, price DOUBLE, stock INTEGER,
  category_id INTEGER REFERENCES categories (category_id), supplier_id INTEGER REFERENCES suppliers (supplier_id));
CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (customer_id),
  store_id INTEGER REFERENCES stores (store_id), employee_id INTEGER REFERENCES employees (employee_id),
  order_date DATE, status VARCHAR);
CREATE TABLE order_items (order_item_id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders (order_id),
  product_id INTEGER REFERENCES products (product_id), quantity INTEGER, unit_price DOUBLE);
CREATE TABLE payments (payment_id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders (order_id),
  amount DOUBLE, method VARCHAR, paid_on DATE);
"""
_REGIONS = ["North", "South", "East", "West"]
_CITIES = [
    ("Berlin", "Germany"), ("Hamburg", "Germany"), ("Paris", "France"), ("Lyon", "France"), ("Madrid", "Spain"),
    ("Oslo", "Norway"), ("Stockholm", "Sweden"), ("Rome", "Italy"), ("Vienna", "Austria"), ("Dublin", "Ireland"),
    ("Lisbon", "Portugal"), ("Warsaw", "Poland"),
]  # fmt: skip
_FIRST = "Ada Ben Clara David Emma Felix Greta Hugo Ida Jonas Karin Leo Mia Nils Olga Paul Rosa Sven Tina Uwe".split()
_LAST = "Adler Brandt Costa Duval Evans Fischer Garcia Hansen Ivanov Jensen Keller Lopez Moreau Novak Olsen Rossi".split()
_SEGMENTS = ["Consumer", "Business", "Club"]
_JOBS = [("Manager", 5200), ("Sales Associate", 3100), ("Cashier", 2700), ("Stock Clerk", 2600)]
_CATEGORIES = {
    "Tents": ["Dome Tent", "Tunnel Tent", "Trekking Tent", "Family Tent"],
    "Backpacks": ["Day Pack", "Trail Pack", "Expedition Pack", "Hydration Pack"],
    "Footwear": ["Hiking Boots", "Trail Shoes", "Camp Sandals", "Winter Boots"],
    "Clothing": ["Rain Jacket", "Fleece Sweater", "Down Vest", "Trekking Pants", "Wool Socks"],
    "Cooking": ["Gas Stove", "Titanium Pot", "Camp Kettle", "Cutlery Set"],
    "Sleeping": ["Down Sleeping Bag", "Summer Sleeping Bag", "Air Mattress", "Foam Mat"],
    "Climbing": ["Climbing Rope", "Harness", "Helmet", "Chalk Bag"],
    "Lighting": ["Headlamp", "Camping Lantern", "Solar Light"],
}
_SUPPLIERS = [("Fjord Gear", "Norway"), ("Alpina Works", "Austria"), ("Nordlys", "Sweden"), ("Monte Equip", "Italy"),
              ("Atlantic Textiles", "Portugal"), ("Vistula Outdoor", "Poland")]  # fmt: skip
_EDITIONS = ["Classic", "Light", "Pro"]
_STATUSES = ["delivered"] * 7 + ["shipped", "pending", "cancelled", "returned"]
_METHODS = ["credit card", "credit card", "bank transfer", "cash", "voucher"]

Rows = list[tuple[Any, ...]]


def database_or_sample(db: str | Path | None) -> Database:
    """The named database, else that of DATABASE_URL, else the sample. Raises what `open_database` raises."""
    if db is not None:
        return open_database(db)
    url = os.environ.get("DATABASE_URL")
    if not url:
        return sample_database()
    try:
        return open_database(url)
    except UserError as error:
        raise UserError(f"DATABASE_URL: {error.message}", "name a database with --db, or unset DATABASE_URL") from error


def sample_database() -> Database:
    """The sample in the user's cache, made on first use. Raises UserError when the cache cannot be written."""
    folder = cache_folder()
    path = folder / f"sample-v{VERSION}.duckdb"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            create_sample(path)
        except OSError as error:
            raise UserError(
                f"cannot write the sample database to {folder}: {error.strerror}",
                "set OPENARCTIC_CACHE to a folder that can be written, or name a database with --db",
            ) from error
    return open_database(path)


def create_sample(path: Path) -> None:
    """Write the database to `path`: into a temporary file first, so that a half-made one is never seen."""
    import duckdb

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".sample-") as scratch:
        temporary = Path(scratch) / "sample.duckdb"
        connection = duckdb.connect(str(temporary))
        try:
            connection.execute("BEGIN")
            connection.execute(_TABLES)
            for table, rows in sample_rows().items():
                for chunk in _chunks(rows, 500):
                    marks = ", ".join("(" + ", ".join("?" * len(chunk[0])) + ")" for _ in chunk)
                    connection.execute(f"INSERT INTO {table} VALUES {marks}", [v for row in chunk for v in row])
            connection.execute("COMMIT")
        finally:
            connection.close()
        os.replace(temporary, path)


def _chunks(rows: Rows, size: int) -> Iterable[Rows]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def sample_rows() -> dict[str, Rows]:
    """Every table's rows, parents before children; the same on every call."""
    rng = random.Random(SEED)
    tables: dict[str, Rows] = {"regions": [(i + 1, name) for i, name in enumerate(_REGIONS)]}
    tables["stores"] = [
        (i + 1, f"{city} Store", city, country, i % len(_REGIONS) + 1, _day(rng, 2012, 2019))
        for i, (city, country) in enumerate(_CITIES)
    ]
    tables["employees"] = list(_employees(rng))
    tables["customers"] = list(_customers(rng, 300))
    tables["categories"] = [(i + 1, name) for i, name in enumerate(_CATEGORIES)]
    tables["suppliers"] = [(i + 1, *supplier) for i, supplier in enumerate(_SUPPLIERS)]
    tables["products"] = list(_products(rng))
    _orders(rng, 1200, tables)
    return tables


def _day(rng: random.Random, first_year: int, last_year: int) -> date:
    start = date(first_year, 1, 1)
    return start + timedelta(days=rng.randrange((date(last_year, 12, 31) - start).days))


def _person(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"


def _employees(rng: random.Random) -> Iterable[tuple[Any, ...]]:
    number = 0
    for store in range(1, len(_CITIES) + 1):
        for i in range(5):
            number += 1
            title, pay = _JOBS[min(i, 3)]
            yield number, _person(rng), title, pay + 50 * rng.randrange(-6, 13), _day(rng, 2015, 2023), store


def _customers(rng: random.Random, count: int) -> Iterable[tuple[Any, ...]]:
    for number in range(1, count + 1):
        name = _person(rng)
        city, country = rng.choice(_CITIES)
        email = f"{name.lower().replace(' ', '.')}{number}@example.com"
        yield number, name, email, city, country, rng.choice(_SEGMENTS), _day(rng, 2019, 2024)


def _products(rng: random.Random) -> Iterable[tuple[Any, ...]]:
    number = 0
    for category, names in enumerate(_CATEGORIES.values(), start=1):
        for name in names:
            base = rng.randrange(10, 260)
            for i, edition in enumerate(_EDITIONS):
                number += 1
                price = round(base * (1 + 0.35 * i) - 0.05, 2)
                yield number, f"{name} {edition}", price, rng.randrange(0, 200), category, rng.randrange(1, len(_SUPPLIERS) + 1)


def _orders(rng: random.Random, count: int, tables: dict[str, Rows]) -> None:
    products: Sequence[tuple[Any, ...]] = tables["products"]
    orders, items, payments = (tables.setdefault(name, []) for name in ("orders", "order_items", "payments"))
    for number in range(1, count + 1):
        store = rng.randrange(1, len(_CITIES) + 1)
        employee = 5 * (store - 1) + rng.randrange(1, 6)
        when, status = _day(rng, 2022, 2024), rng.choice(_STATUSES)
        orders.append((number, rng.randrange(1, 281), store, employee, when, status))
        total = 0.0
        for product in rng.sample(products, rng.randrange(1, 5)):
            quantity = rng.choice((1, 1, 1, 2, 3))
            total += quantity * product[2]
            items.append((len(items) + 1, number, product[0], quantity, product[2]))
        if status not in ("pending", "cancelled"):
            paid = when + timedelta(days=rng.randrange(0, 15))
            payments.append((len(payments) + 1, number, round(total, 2), rng.choice(_METHODS), paid))
