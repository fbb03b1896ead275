"""Files that appear whole or not at all; locks, digests; files at URLs, through fsspec."""

from mtfrun.files.atomic import atomic_open as atomic_open
from mtfrun.files.atomic import atomic_write as atomic_write
from mtfrun.files.atomic import remove_outputs_in_progress as remove_outputs_in_progress
from mtfrun.files.copies import cache_directory as cache_directory
from mtfrun.files.copies import copy_matching as copy_matching
from mtfrun.files.copies import download as download
from mtfrun.files.copies import local_copy as local_copy
from mtfrun.files.copies import origin_of as origin_of
from mtfrun.files.errors import DamagedCheckpointError as DamagedCheckpointError
from mtfrun.files.errors import DeletedCheckpointError as DeletedCheckpointError
from mtfrun.files.errors import RunDirError as RunDirError
from mtfrun.files.lock import exclusive as exclusive
from mtfrun.files.lock import lock_file as lock_file
from mtfrun.files.lock import writer_lock as writer_lock
from mtfrun.files.store import URLS as URLS
from mtfrun.files.store import Store as Store
from mtfrun.files.store import StoredFile as StoredFile
from mtfrun.files.store import StoreError as StoreError
from mtfrun.files.store import has_masked_urls as has_masked_urls
from mtfrun.files.store import is_url as is_url
from mtfrun.files.store import reveal_url as reveal_url
from mtfrun.files.worker import Worker as Worker
