//! Request, response, error and event types of the HTTP surface, with their schemas.
