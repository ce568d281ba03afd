"""Small databases of different shapes for conversations: keys declared and not, texts as dates, camel case, one flat file."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

from openarctic.copilot.databases import Database, open_database
from openarctic.copilot.sample import sample_database

_MUSIC = """
CREATE TABLE stadium (Stadium_ID INTEGER PRIMARY KEY, Name TEXT, Location TEXT, Capacity INTEGER);
CREATE TABLE singer (Singer_ID INTEGER PRIMARY KEY, Name TEXT, Country TEXT, Age INTEGER, Is_male TEXT);
CREATE TABLE concert (Concert_ID INTEGER PRIMARY KEY, Title TEXT, Theme TEXT, Year INTEGER,
  Stadium_ID INTEGER REFERENCES stadium (Stadium_ID));
CREATE TABLE singer_in_concert (Concert_ID INTEGER REFERENCES concert (Concert_ID),
  Singer_ID INTEGER REFERENCES singer (Singer_ID), PRIMARY KEY (Concert_ID, Singer_ID));
INSERT INTO stadium VALUES
  (1,'Stark Park','Raith',10104), (2,'Somerset Park','Ayr',11998), (3,'Bayview','Methil',2000),
  (4,'Hampden','Glasgow',52500);
INSERT INTO singer VALUES
  (1,'Joe Sharp','Netherlands',52,'F'), (2,'Timbaland','United States',32,'T'), (3,'Justin Brown','France',29,'T'),
  (4,'Rose White','France',41,'F'), (5,'John Nizinik','France',43,'T'), (6,'Tribal King','France',25,'T'),
  (7,'Ana Lopes','Portugal',36,'F');
INSERT INTO concert VALUES
  (1,'Auditions','Free choice',2014,1), (2,'Super bootcamp','Party All Night',2014,2),
  (3,'Home Visits','Bleeding Love',2015,2), (4,'Week 1','Wide Awake',2014,4), (5,'Week 2','Happy Tonight',2015,4),
  (6,'Finale','Free choice',2015,4);
INSERT INTO singer_in_concert VALUES
  (1,2), (1,3), (1,5), (2,3), (2,6), (3,5), (4,4), (5,6), (5,3), (6,2);
"""
_CLINIC = """
CREATE TABLE Doctor (doctorId INTEGER PRIMARY KEY, fullName TEXT, speciality TEXT, hireDate TEXT, monthlySalary REAL);
CREATE TABLE Patient (patientId INTEGER PRIMARY KEY, firstName TEXT, lastName TEXT, gender TEXT, birthDate TEXT, city TEXT,
  phone TEXT);
CREATE TABLE Appointment (appointmentId INTEGER PRIMARY KEY, patientId INTEGER, doctorId INTEGER, visitDate TEXT, fee REAL,
  outcome TEXT,   FOREIGN KEY (patientId) REFERENCES Patient (patientId), FOREIGN KEY (doctorId) REFERENCES Doctor (doctorId));
"""
_LIBRARY = """
CREATE TABLE authors (author_id INTEGER PRIMARY KEY, author_name VARCHAR, nationality VARCHAR, birth_year INTEGER);
CREATE TABLE books (isbn VARCHAR PRIMARY KEY, title VARCHAR, genre VARCHAR, pages INTEGER, published INTEGER, in_print BOOLEAN,
  author_id INTEGER REFERENCES authors (author_id));
CREATE TABLE members (member_id INTEGER PRIMARY KEY, first_name VARCHAR, last_name VARCHAR, town VARCHAR, joined_on DATE);
CREATE TABLE loans (loan_id INTEGER PRIMARY KEY, isbn VARCHAR REFERENCES books (isbn),
  member_id INTEGER REFERENCES members (member_id), loaned_at TIMESTAMP, returned_at TIMESTAMP, fine DECIMAL(8, 2));
"""
_CITIES = ["Leeds", "York", "Hull", "Bath"]
_OUTCOMES = ["cured", "referred", "follow-up", "no show"]


def databases(folder: Path) -> dict[str, Database]:
    """All of them, by the names that the cases use."""
    music = folder / "music.sqlite"
    with sqlite3.connect(music) as connection:
        connection.executescript(_MUSIC)
    _clinic(folder / "clinic.sqlite")
    _flights(folder / "flights.csv")
    _geography(folder / "geography.sqlite")
    _library(folder / "library.duckdb")
    return {
        "shop": sample_database(),
        **{n: open_database(folder / f"{n}.sqlite") for n in ("music", "clinic", "geography")},
        "flights": open_database(folder / "flights.csv"),
        "library": open_database(folder / "library.duckdb"),
    }


def _clinic(path: Path) -> None:
    rng = random.Random(7)
    doctors = [
        ("Ellen Marsh", "Cardiology"),
        ("Omar Haddad", "Cardiology"),
        ("Lena Fuchs", "Dermatology"),
        ("Pat Doyle", "Surgery"),
    ]
    with sqlite3.connect(path) as connection:
        connection.executescript(_CLINIC)
        for i, (name, speciality) in enumerate(doctors, 1):
            hired = f"20{10 + 3 * i}-0{i + 2}-15"
            connection.execute("INSERT INTO Doctor VALUES (?,?,?,?,?)", (i, name, speciality, hired, 4000.0 + 650 * i))
        for i in range(1, 31):
            first, last = rng.choice(["Amy", "Ben", "Cleo", "Dan", "Eve", "Finn"]), rng.choice(["Hill", "Ford", "Wood", "Lake"])
            born = f"{rng.randrange(1940, 2010)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 28):02}"
            row = (
                i,
                first,
                f"{last}{i}",
                rng.choice(["female", "male"]),
                born,
                rng.choice(_CITIES),
                None if i % 5 == 0 else f"555-{i:04}",
            )
            connection.execute("INSERT INTO Patient VALUES (?,?,?,?,?,?,?)", row)
        for i in range(1, 121):
            day = f"{rng.choice([2021, 2022, 2023])}-{rng.randrange(1, 13):02}-{rng.randrange(1, 28):02}"
            row2 = (i, rng.randrange(1, 29), rng.randrange(1, 5), day, round(40 + rng.random() * 200, 2), rng.choice(_OUTCOMES))
            connection.execute("INSERT INTO Appointment VALUES (?,?,?,?,?,?)", row2)


def _flights(path: Path) -> None:
    rng = random.Random(11)
    lines = ["flight_no,airline,origin,destination,departure_date,distance_km,delay_minutes,cancelled"]
    for i in range(1, 201):
        origin, destination = rng.sample(["Oslo", "Rome", "Paris", "Madrid", "Vienna"], 2)
        airline = rng.choice(["Nordic Air", "Blue Wings", "Sun Express"])
        day = f"{rng.choice([2023, 2024])}-{rng.randrange(1, 13):02}-{rng.randrange(1, 28):02}"
        numbers = f"{rng.randrange(300, 2600)},{rng.randrange(0, 180)}"
        lines.append(f"F{i:03},{airline},{origin},{destination},{day},{numbers},{rng.choice(['yes', 'no', 'no', 'no'])}")
    path.write_text("\n".join(lines) + "\n")


def _geography(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT, continent TEXT, population INTEGER, area_km2 REAL);
            CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT, country_code TEXT, population INTEGER, is_capital INTEGER,
              FOREIGN KEY (country_code) REFERENCES country (code));
            CREATE TABLE language (country_code TEXT, language TEXT, is_official TEXT, percentage REAL,
              FOREIGN KEY (country_code) REFERENCES country (code));
            INSERT INTO country VALUES
  ('DE','Germany','Europe',83000000,357000), ('FR','France','Europe',67000000,551000),
  ('PE','Peru','South America',33000000,1285000), ('BR','Brazil','South America',212000000,8515000),
  ('JP','Japan','Asia',125000000,378000), ('CH','Switzerland','Europe',8600000,41000),
  ('NP','Nepal','Asia',29000000,147000);
            INSERT INTO city VALUES
  (1,'Berlin','DE',3600000,1), (2,'Hamburg','DE',1800000,0), (3,'Paris','FR',2100000,1), (4,'Lyon','FR',516000,0),
  (5,'Lima','PE',9700000,1), (6,'Rio','BR',6700000,0), (7,'Brasilia','BR',3000000,1), (8,'Tokyo','JP',13900000,1),
  (9,'Osaka','JP',2700000,0), (10,'Zurich','CH',430000,0), (11,'Munich','DE',1500000,0);
            INSERT INTO language VALUES
  ('DE','German','T',91.0), ('FR','French','T',93.0), ('PE','Spanish','T',80.0), ('PE','Quechua','T',16.0),
  ('BR','Portuguese','T',97.0), ('JP','Japanese','T',99.0), ('CH','German','T',63.0), ('CH','French','T',19.0),
  ('CH','Italian','T',7.0), ('NP','Nepali','T',50.0), ('CH','English','F',5.0);
            """
        )


def _library(path: Path) -> None:
    import duckdb

    rng = random.Random(5)
    authors = [
        ("Ines Vale", "Portuguese", 1950),
        ("Tom Reed", "British", 1964),
        ("Aiko Mori", "Japanese", 1971),
        ("Sam Field", "British", 1940),
    ]
    connection = duckdb.connect(str(path))
    connection.execute(_LIBRARY)
    for i, author in enumerate(authors, 1):
        connection.execute("INSERT INTO authors VALUES (?, ?, ?, ?)", [i, *author])
    for i in range(1, 25):
        row = [
            f"978-{i:03}",
            f"Book {i}",
            rng.choice(["Crime", "Poetry", "Science"]),
            rng.randrange(80, 700),
            rng.randrange(1985, 2022),
        ]
        connection.execute("INSERT INTO books VALUES (?, ?, ?, ?, ?, ?, ?)", [*row, i % 4 > 0, i % 4 + 1])
    for i in range(1, 13):
        name = [rng.choice(["Una", "Vic", "Wim"]), f"Stone{i}"]
        day = f"20{rng.randrange(15, 24)}-0{rng.randrange(1, 10)}-11"
        connection.execute("INSERT INTO members VALUES (?, ?, ?, ?, ?)", [i, *name, rng.choice(["Delft", "Gouda", "Breda"]), day])
    for i in range(1, 81):
        day = f"{rng.choice([2022, 2023])}-{rng.randrange(1, 13):02}-{rng.randrange(1, 28):02} 10:00:00"
        back = None if i % 6 == 0 else day.replace("10:00", "17:30")
        row = [
            i,
            f"978-{rng.randrange(1, 25):03}",
            rng.randrange(1, 12),
            day,
            back,
            round(rng.random() * 9, 2) if i % 3 else None,
        ]
        connection.execute("INSERT INTO loans VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.close()
