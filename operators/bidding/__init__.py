"""Auctions: every opportunity ends in exactly one decision, before its deadline or not at all."""

from operators.bidding.step import BiddingOut, bidding

__all__ = ["BiddingOut", "bidding"]
