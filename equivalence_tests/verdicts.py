"""The verdicts of an assignment's tests on a file: the test of each report, and the points of a statement."""

import re


class Verdicts:
    """The fate of each test that is listed: passed, or failed or skipped because a name is missing."""

    def __init__(self, tests):
        self.tests, self.fates = tests, {test: [] for test in tests}

    def test_of(self, nodeid):
        """The listed test of a pytest name, or None."""
        file, function, parameters = re.match(r".*?(\w+)\.py::(\w+)(?:\[(.*)\])?$", nodeid).groups()
        for test in self.tests:
            wanted, _, parameter = test.partition("[")
            if wanted == f"{file}::{function}" and (not parameter or parameters.endswith(f"-{parameter[:-1]}")):
                return test
        return None

    def add(self, report):
        """Count a report; whether it counts."""
        test = self.test_of(report.nodeid)
        if test is None or (report.skipped and "does not define" not in str(report.longrepr)):
            return False  # tests of the reference only
        self.fates[test].append(report.passed)
        return True

    def ran(self, statement):
        """Whether all tests of a statement did."""
        return all(self.fates[test] for test in statement.tests)

    def points(self, statement):
        """In proportion to the tests that pass; a law counts only where the pairs that are listed with it pass."""
        assert self.ran(statement), f"a test of {statement.name} did not run"
        pairs = [fate for test in statement.tests if test.startswith("test_pairs") for fate in self.fates[test]]
        laws = [fate for test in statement.tests if not test.startswith("test_pairs") for fate in self.fates[test]]
        passed = sum(pairs) + (sum(laws) if all(pairs) else 0)
        return round(statement.points * passed / len(pairs + laws), 1)
