"""A course: students join by one link, train, stop, go on, test and compare, all at once; nobody waits out of turn."""

import statistics
import threading
import time

import pytest

from .conftest import PASSWORD, Started

SLOWEST = 20.0  # seconds that no page may take


class Student(threading.Thread):
    """One of them, in a thread; what was seen in `times` (seconds a page) and `numbers` (of records)."""

    def __init__(self, platform, link, name, patience):
        super().__init__(daemon=True)
        self.client, self.link, self.student, self.patience = platform.client(), link, name, patience
        self.times: list = []
        self.numbers: list = []
        self.fault: BaseException | None = None

    def run(self):
        try:
            self.course()
        except BaseException as error:
            self.fault = error

    def asked(self, method, address, **more):
        """An answer, and how long it took."""
        began = time.perf_counter()
        answer = self.client.request(method, address, **more)
        self.times.append(time.perf_counter() - began)
        assert answer.status_code < 400, (address, answer.status_code, answer.text)
        return answer.json()

    def until(self, number, holds):
        """The record once `holds` is true of it, looked at as a page does."""
        deadline = time.monotonic() + self.patience
        while True:
            found = self.asked("GET", f"/record/{number}/news")["record"]
            if holds(found):
                return found
            assert time.monotonic() < deadline, f"{self.student} waited too long for {number}: {found['state']}"
            time.sleep(3)

    def started(self, kind, **answers):
        self.numbers.append(self.asked("POST", f"/{kind}/new", json={"name": self.student} | answers)["id"])
        return self.numbers[-1]

    def course(self):
        secrets = {"password": PASSWORD, "again": PASSWORD}
        self.asked("POST", self.link, json={"name": self.student} | secrets)
        ann = self.started("ann", model="mlp", width=0.25, epochs=8)
        self.until(ann, lambda record: record["state"] == "running" or record["ended"])
        self.asked("POST", f"/record/{ann}/stop")
        if self.until(ann, lambda record: record["ended"])["state"] == "stopped":
            self.asked("POST", f"/record/{ann}/resume")
        assert self.until(ann, lambda record: record["state"] == "finished" or record["message"])["state"] == "finished"
        qann = self.started("qann", source=ann, levels=4, epochs1=1, epochs2=1)
        test = self.started("test", source=qann, steps=4, test_images=50)
        assert self.until(test, lambda record: record["ended"])["state"] == "finished"
        self.asked("GET", f"/record/{test}")
        self.asked("GET", "/compare", params={"id": test})


def term(folder, students, patience):
    """What a course of so many saw: times of pages, and in which order its runs began."""
    platform = Started(folder, "--jobs", "2")
    began = time.monotonic()
    try:
        boss = platform.administrator()
        link = boss.post("/users/invite", json={"uses": students}).json()["link"]
        course = [Student(platform, link, f"student-{i}", patience) for i in range(students)]
        for student in course:
            student.start()
        for student in course:
            student.join(patience)
        faults = [(student.student, student.fault or "did not end") for student in course
                  if student.fault or student.is_alive()]  # fmt: skip
        assert faults == []
        rows = {number: boss.get(f"/record/{number}").json()["record"] for s in course for number in s.numbers}
        check_turns(rows, {number: s.student for s in course for number in s.numbers})
        times = [t for student in course for t in student.times]
    finally:
        platform.stop()
    return {
        "students": students,
        "runs": len(rows),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "pages": len(times),
        "median": round(statistics.median(times), 3),
        "slowest": round(max(times), 2),
    }


def check_turns(rows, owners):
    """Between two turns of a student, nobody else has two turns more than the slots and the wait of his own explain.

    A record waits from when it could begin: created, and its source ended. While it waits, another student begins at
    most one run, and one more for each slot.
    """
    for number, row in rows.items():
        if row["kind"] == "ann":
            continue  # it was stopped, and began twice
        source = rows.get(row["source"])
        ready = max(row["created"], source["ended"] if source else 0)
        others: dict = {}
        for other, one in rows.items():
            if owners[other] != owners[number] and ready < one["began"] < row["began"]:
                others[owners[other]] = others.get(owners[other], 0) + 1
        assert max(others.values(), default=0) <= 3, (number, row["began"] - ready, others)


def test_a_few_students(tmp_path, record_property):
    seen = term(tmp_path / "data", 2, 240)
    record_property("seen", f"term: {seen}")
    assert seen["slowest"] < SLOWEST


@pytest.mark.long
@pytest.mark.timeout(3900)
def test_sixty_students(tmp_path, record_property):
    seen = term(tmp_path / "data", 60, 3600)
    record_property("seen", f"term: {seen}")
    assert seen["slowest"] < SLOWEST
