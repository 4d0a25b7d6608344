#pragma once

#include <nlohmann/json_fwd.hpp>
#include <stop_token>

#include "session/control.h"
#include "vm/serial_console.h"

namespace isr {

/// The daemon's request "console": sends what the guest said from the request's offset on and, with
/// follow, goes on to its last word: a console is followed beyond the end of its VM.
nlohmann::json follow_console(const SerialConsole& console, const nlohmann::json& request, const ControlReply& reply,
                              const std::stop_token& stop);

}  // namespace isr
