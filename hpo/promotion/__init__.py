"""Promote a study's best trial to champion of a registered model, and keep the record of why."""
