"""All runs of a folder as one page of HTML that needs nothing else: no network, no program."""

from framework.dashboard.build import build_page, page_data

__all__ = ["build_page", "page_data"]
