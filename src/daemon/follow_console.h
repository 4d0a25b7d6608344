#pragma once

#include <stop_token>

#include "daemon/control_server.h"
#include "daemon/protocol.h"
#include "machine/machine.h"
#include "vm/serial_console.h"

namespace isr {

/// Answers the request "console": sends the guest's output from the request's offset on. With `follow` it goes on until
/// the console has ended and all its output is sent, even if the VM ends before.
ConsoleAnswer follow_console(const SerialConsole& console, const ConsoleRequest& request, const ControlReply& reply,
                             const std::stop_token& stop);

/// Answers the request "type": writes its text to the console.
TypeAnswer type_text(SerialConsole& console, const TypeRequest& request);
/// Returns the machine's console; Error{kVm}, naming the parcel, if the machine has not run yet.
std::shared_ptr<SerialConsole> console_of(const Machine& machine, const std::string& parcel);

}  // namespace isr
