-- Contexts that the database verifies: what `actionengine db sign` installs beside the first key.
--
-- app.signature has to be the HMAC-SHA256 (RFC 2104), in hexadecimal digits, of "<tenant id>|<action id>" under one of
-- the stored keys. The functions run as the owner, who alone can read the keys.

CREATE OR REPLACE FUNCTION public.ae_signed(message text, signature text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM public.ae_signing_keys k
        WHERE signature = encode(sha256(k.outer_pad || sha256(k.inner_pad || convert_to(message, 'UTF8'))), 'hex')
    );
END $$;

CREATE OR REPLACE FUNCTION public.ae_tenant() RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claimed text  := nullif(current_setting('app.tenant_id', true), '');
    message bytea := convert_to(claimed || '|' || coalesce(current_setting('app.action_id', true), ''), 'UTF8');
BEGIN
    IF EXISTS (
        SELECT FROM public.ae_signing_keys k
        WHERE current_setting('app.signature', true)
            = encode(sha256(k.outer_pad || sha256(k.inner_pad || message)), 'hex')
    ) THEN
        RETURN claimed::uuid;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION public.ae_writing_tenant() RETURNS uuid
LANGUAGE sql STABLE RETURN CASE WHEN current_setting('app.action_id', true) <> '' THEN public.ae_tenant() END;
