"""SavedModels of TensorFlow made of trained models; programs that load them do not need mtfrun."""

# The modules register themselves.
from mtfrun.tools.conversion.saved_model import image_signatures as image_signatures
from mtfrun.tools.conversion.saved_model import text_signatures as text_signatures
from mtfrun.tools.conversion.saved_model.export import export_saved_model as export_saved_model
from mtfrun.tools.conversion.saved_model.export import signatures_of as signatures_of
