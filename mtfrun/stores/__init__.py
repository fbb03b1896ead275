"""Files at URLs, in any store that fsspec knows: s3://, gs://, memory://, file://, ..."""

from mtfrun.stores.cache import cache_directory as cache_directory
from mtfrun.stores.cache import check_room as check_room
from mtfrun.stores.cache import exclusive as exclusive
from mtfrun.stores.cache import lock_file as lock_file
from mtfrun.stores.copies import copy_matching as copy_matching
from mtfrun.stores.copies import local_copy as local_copy
from mtfrun.stores.copies import origin_of as origin_of
from mtfrun.stores.store import URLS as URLS
from mtfrun.stores.store import Store as Store
from mtfrun.stores.store import StoredFile as StoredFile
from mtfrun.stores.store import StoreError as StoreError
from mtfrun.stores.store import has_masked_urls as has_masked_urls
from mtfrun.stores.store import is_url as is_url
from mtfrun.stores.store import reveal_url as reveal_url
from mtfrun.stores.worker import Worker as Worker
