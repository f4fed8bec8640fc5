"""From a study's best trial to a registered model's champion, and the record of why."""
