/*
 * record_control.h: records that are not application data: alerts, and handshake messages after the
 * handshake. A part of the record layer (client/record.h).
 */
#ifndef CLIENT_RECORD_CONTROL_H
#define CLIENT_RECORD_CONTROL_H

#include "client/record.h"

/* Obey an authentic record of this inner type. content is hostile. What has to be answered
 * is noted in the record as owed. */
enum record_event record_receive_control(struct record *record, uint8_t type,
                                         const uint8_t *content, size_t size,
                                         struct record_failure *failure);

#endif
