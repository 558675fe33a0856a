"""Being here puts this folder on the path: what tests share is found from the folders below."""

from hypothesis import settings

# Machines that run tests are busy: how long an example takes says nothing of the code.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
