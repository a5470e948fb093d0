"""Contracts of plug-ins: what is wrong with a space, strategy, sampler, task, data set or tool, in sentences.

Each ``check_*`` takes the thing itself, what makes it, or its ``module:name``, and returns a list of findings; an
empty list is a plug-in that keeps its contract. A plug-in that raises gets a finding too. In a test::

    from manynet.testing import check_space, require

    def test_my_space():
        require(check_space("my_space:space"))
"""

from manynet.testing.data import check_data as check_data
from manynet.testing.findings import require as require
from manynet.testing.sampler import check_sampler as check_sampler
from manynet.testing.space import check_space as check_space
from manynet.testing.strategy import check_strategy as check_strategy
from manynet.testing.task import check_task as check_task
from manynet.testing.tool import check_tool as check_tool

__all__ = [
    "check_data",
    "check_sampler",
    "check_space",
    "check_strategy",
    "check_task",
    "check_tool",
    "require",
]
