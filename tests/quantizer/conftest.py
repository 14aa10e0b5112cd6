"""The conformance matrix: the shipped recipe first."""

import pytest

from tests.quantizer.cases import CASES, features_of, fitted


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    composition, kind, layout = request.param
    return fitted(composition, kind, layout), features_of(layout)
