-- The functions that verify signed contexts. `actionengine db sign` installs them with the first key.
--
-- A host signs each transaction's mode (r or w), tenant and action with one of the stored keys: HMAC-SHA256 (RFC 2104),
-- in hexadecimal digits, of "context|<mode>|<tenant id>|<action id>". ae_open verifies the signature, and returns the
-- value of app.signature for this transaction, which the policies verify: the mode, and an HMAC of the same text with the
-- transaction's start time and server process. SQL can read this value, but it is valid in no other transaction. SQL
-- never sees the host's signature. The functions run as the owner, which alone can read the keys.

CREATE OR REPLACE FUNCTION public.ae_signed(message text, signature text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM public.ae_signing_keys k
        WHERE signature = encode(sha256(k.outer_pad || sha256(k.inner_pad || convert_to(message, 'UTF8'))), 'hex')
    );
END $$;

CREATE OR REPLACE FUNCTION public.ae_open(tenant text, action text, mode text, signature text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    context     bytea := convert_to(mode || '|' || tenant || '|' || action, 'UTF8');
    transaction bytea := 'transaction|'::bytea || timestamptz_send(now()) || int4send(pg_backend_pid());
    opened      text;
BEGIN
    SELECT mode || encode(sha256(k.outer_pad || sha256(k.inner_pad || transaction || context)), 'hex') INTO opened
    FROM public.ae_signing_keys k
    WHERE signature = encode(sha256(k.outer_pad || sha256(k.inner_pad || 'context|'::bytea || context)), 'hex');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the signature of this transaction''s context is missing or wrong' USING ERRCODE = 'AE003';
    END IF;
    RETURN opened;
END $$;

CREATE OR REPLACE FUNCTION public.ae_tenant() RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claimed     text  := nullif(current_setting('app.tenant_id', true), '');
    opened      text  := current_setting('app.signature', true);
    context     bytea := convert_to(
        left(opened, 1) || '|' || claimed || '|' || coalesce(current_setting('app.action_id', true), ''), 'UTF8'
    );
    transaction bytea := 'transaction|'::bytea || timestamptz_send(now()) || int4send(pg_backend_pid());
BEGIN
    IF EXISTS (
        SELECT FROM public.ae_signing_keys k
        WHERE substr(opened, 2) = encode(sha256(k.outer_pad || sha256(k.inner_pad || transaction || context)), 'hex')
    ) THEN
        RETURN claimed::uuid;
    END IF;
    RETURN NULL;
END $$;

-- A read-only context cannot write, even if SQL changes the mode of the transaction.

CREATE OR REPLACE FUNCTION public.ae_writing_tenant() RETURNS uuid
LANGUAGE sql STABLE RETURN CASE
    WHEN current_setting('app.action_id', true) <> '' AND starts_with(current_setting('app.signature', true), 'w')
    THEN public.ae_tenant()
END;
