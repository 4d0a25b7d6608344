#pragma once

#include <string_view>

namespace isr {

/// True when the name has the form that BlobStore documents.
bool is_blob_name(std::string_view name);

}  // namespace isr
