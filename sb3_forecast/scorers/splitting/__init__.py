"""Unbiased small failure probabilities of any simulator whose state can be kept: adaptive multilevel splitting."""
